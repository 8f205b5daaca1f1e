"""CamVid, on the disk and through its training pipeline."""

import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS

from mmcert.datasets import CamVidDataset, StreetScenesDataset
from tests.openmmlab import ROOT

CAMVID = ROOT / 'data' / 'camvid'


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
