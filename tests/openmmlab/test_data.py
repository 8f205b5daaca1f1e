"""Datasets, training transforms, pictures."""

import hashlib

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.structures import SegDataSample

from mmcert.datasets import CamVidDataset, StreetScenesDataset
from mmcert.datasets.street_scenes import draw_scene
from mmcert.visualization import CertifiedVisualizer

from .conftest import ROOT, run_test

CAMVID = ROOT / 'data' / 'camvid'


def test_scenes_are_the_same_everywhere():
    image, labels = draw_scene(64, 96, (0, 7))
    again, _ = draw_scene(64, 96, (0, 7))
    np.testing.assert_array_equal(image, again)
    assert (image != draw_scene(64, 96, (0, 8))[0]).any()
    assert image.shape == (64, 96, 3)
    assert set(np.unique(labels)) <= {*range(8), 255}


def test_every_class_of_the_scenes_occurs():
    counts = sum(
        np.bincount(draw_scene(64, 96, (0, k))[1].ravel(), minlength=256) for k in range(10)
    )
    assert (counts[:8] > 50).all()
    assert counts[255] < 0.15 * counts.sum()


def test_the_data_set_draws_its_files_once(tmp_path):
    def build():
        return StreetScenesDataset(
            split='test', num_images=3, size=(32, 48), data_root=str(tmp_path), pipeline=[]
        )

    def times():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.png')}

    assert len(build()) == 3
    drawn = times()
    assert len(build()) == 3
    assert times() == drawn
    assert len(list(tmp_path.rglob('*.png'))) == 6
    assert [p.name for p in tmp_path.iterdir()] == ['test-3-32x48']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(split='dev', num_images=1), 'train, val, test'),
        (dict(split='val', num_images=0), 'at least 1'),
    ],
)
def test_impossible_scenes_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        StreetScenesDataset(data_root=str(tmp_path), pipeline=[], **arguments)


def test_noise_of_the_pipeline_has_its_level_and_is_not_clipped():
    transform = TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=0.25))
    image = np.full((100, 100, 3), 128, dtype=np.uint8)
    noise = transform({'img': image})['img'] - 128.0
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(255 * 0.25, rel=0.03)
    assert abs(noise.mean()) < 3
    assert noise.max() > 127
    assert (image == 128).all()


def test_noise_of_the_pipeline_follows_the_workers_seed():
    transform = TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=(0.1, 0.5), prob=0.7))
    digests = set()
    for _ in range(2):
        np.random.seed(3)
        images = [transform({'img': np.zeros((8, 8, 3), np.uint8)})['img'] for _ in range(20)]
        digests.add(
            hashlib.sha256(b''.join(i.astype(np.float32).tobytes() for i in images)).digest()
        )
    assert len(digests) == 1
    clean = sum((image == 0).all() for image in images)
    assert 1 <= clean <= 14


def test_noise_of_the_pipeline_refuses_other_units():
    with pytest.raises(ValueError, match='0-255 units'):
        TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=30))
    with pytest.raises(ValueError, match='prob'):
        TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=0.3, prob=2))


def test_a_training_sample_goes_through_the_camvid_pipeline(tmp_path, scenes_root):
    StreetScenesDataset(split='val', num_images=2, data_root=str(scenes_root), pipeline=[])
    cfg = Config.fromfile(ROOT / 'configs/camvid/fast-scnn_noise-s0.25-3k_camvid-360x480.py')
    folder = scenes_root / 'val-2-128x192'
    dataset = CamVidDataset(
        img_suffix='.png',
        data_root=str(folder),
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
        pipeline=cfg.train_pipeline,
    )
    for _ in range(6):
        sample = dataset[0]
        assert sample['inputs'].shape[1:] == sample['data_samples'].gt_sem_seg.data.shape[1:]


def test_the_picture_shows_abstentions_in_white():
    visualizer = CertifiedVisualizer()
    visualizer.dataset_meta = dict(classes=('a', 'b'), palette=[[10, 20, 30], [40, 50, 60]])
    sample = SegDataSample()
    for name, values in (
        ('gt_sem_seg', [[0, 255]]),
        ('base_sem_seg', [[1, 1]]),
        ('cert_sem_seg', [[1, 254]]),
    ):
        sample.set_data({name: PixelData(data=torch.tensor([values]))})
    drawn = visualizer.compose(np.full((1, 2, 3), 7, np.uint8), sample)
    # Below the titles, four panels of 2 pixels with gaps of 4.
    row = drawn[22, :24].reshape(4, 6, 3)[:, :2].tolist()
    image, label, base, certified = row
    assert image == [[7] * 3] * 2
    assert label == [[10, 20, 30], [0, 0, 0]]
    assert base == [[40, 50, 60]] * 2
    assert certified == [[40, 50, 60], [255, 255, 255]]


def test_a_plain_sample_is_drawn_as_mmseg_draws_it(tmp_path):
    visualizer = CertifiedVisualizer()
    visualizer.dataset_meta = dict(classes=('a', 'b'), palette=[[10, 20, 30], [40, 50, 60]])
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.zeros(1, 32, 32, dtype=torch.long)))
    visualizer.add_datasample(
        'x', np.zeros((32, 32, 3), np.uint8), sample, out_file=str(tmp_path / 'a.png')
    )
    assert (tmp_path / 'a.png').exists()


def test_reduce_zero_label_shifts_what_is_certified_against(make_config):
    cfg = make_config(images=1)
    cfg.test_dataloader.dataset.reduce_zero_label = True
    cfg.test_dataloader.dataset.pipeline[1].reduce_zero_label = True
    reduced = run_test(cfg)
    assert 0 <= reduced['certified/certAcc'] <= 1
    plain = run_test(make_config(images=1))
    assert reduced['certified/abstain'] == plain['certified/abstain']
    assert reduced['certified/certAcc'] != plain['certified/certAcc']


@pytest.mark.skipif(not CAMVID.exists(), reason=f'CamVid is not at {CAMVID}')
def test_camvid_as_it_is_on_disk():
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/camvid_360x480.py')
    sizes = {}
    for split in ('train', 'val', 'test'):
        dataset = dict(cfg[f'{split}_dataloader'].dataset)
        dataset['data_root'] = str(CAMVID)
        built = DATASETS.build(dataset)
        sizes[split] = len(built)
        labels = built[0]['data_samples'].gt_sem_seg.data.unique().tolist()
        assert set(labels) <= {*range(11), 255}
    assert sizes == {'train': 367, 'val': 101, 'test': 233}
