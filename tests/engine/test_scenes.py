"""mmdetection3d's own configs of indoor and LiDAR scenes, on small sample files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

mmdet3d = pytest.importorskip('mmdet3d')

from mmdet3d.registry import MODELS  # noqa: E402
from mmdet3d.utils import register_all_modules  # noqa: E402

from mmcert.engine.base_model import prepare_for_clouds  # noqa: E402
from mmcert.pointops import install_cpu_point_ops  # noqa: E402
from mmcert.votes import read_folder  # noqa: E402

POINTS = 300
CONFIGS = Path(mmdet3d.__file__).parent / '.mim' / 'configs'
INDOOR = {
    's3dis': CONFIGS / 'pointnet2/pointnet2_ssg_2xb16-cosine-50e_s3dis-seg.py',
    'scannet': CONFIGS / 'pointnet2/pointnet2_ssg_2xb16-cosine-200e_scannet-seg.py',
}


@pytest.fixture(autouse=True)
def scope():
    register_all_modules(init_default_scope=False)
    install_cpu_point_ops()
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        yield


def scene(rng, columns):
    """A room of 2 m x 1.5 m x 1 m with colours in 0-255."""
    points = rng.random((POINTS, columns)) * ([2, 1.5, 1] + [255] * (columns - 3))
    return points.astype(np.float32)


def indoor(tmp_path, name):
    """The stock config on two scenes of its format, its blocks smaller."""
    rng = np.random.default_rng(0)
    prefix = dict(
        pts='points', pts_semantic_mask='semantic_mask', pts_instance_mask='instance_mask'
    )
    for folder in prefix.values():
        (tmp_path / folder).mkdir()
    infos = []
    for index in range(2):
        file = f'scene{index}.bin'
        scene(rng, 6).tofile(tmp_path / 'points' / file)
        rng.integers(0, 13, POINTS).astype(np.int64).tofile(tmp_path / 'semantic_mask' / file)
        infos.append(
            dict(
                lidar_points=dict(num_pts_feats=6, lidar_path=file),
                pts_semantic_mask_path=file,
                pts_instance_mask_path=file,
            )
        )
    dump(dict(metainfo={}, data_list=infos), tmp_path / 'infos.pkl')
    cfg = Config.fromfile(INDOOR[name])
    cfg.model.backbone.num_points = (32, 16, 8, 4)
    cfg.model.test_cfg.update(num_points=128, batch_size=4)
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset.update(
        {
            'data_root': str(tmp_path),
            'ann_files' if name == 's3dis' else 'ann_file': 'infos.pkl',
            'data_prefix': prefix,
            'scene_idxs': None,
        }
    )
    cfg.work_dir = str(tmp_path / 'work')
    cfg.experiment_name = f'{name}-{tmp_path.name}'
    cfg.default_hooks.smoothing = dict(type='mmcert.SmoothingHook')
    cfg.smoothing = dict(
        sigma=0.02, n0=2, n=11, tau=0.5, alpha=0.05, batch_size=4, strict_weights=False
    )
    return cfg


@pytest.mark.parametrize('name', INDOOR)
def test_indoor_scenes_are_certified_by_the_stock_config(tmp_path, name):
    metrics = Runner.from_cfg(indoor(tmp_path, name)).test()
    assert 'acc' in metrics and 'miou' in metrics  # The stock metric reads the smoothed model.
    assert 0 <= metrics['certified/abstain'] <= 1
    (votes,) = (tmp_path / 'work' / 'certified').glob('votes-*')
    records = list(read_folder(votes))
    assert [record.votes.num_components for record in records] == [POINTS, POINTS]
    assert {record.meta['name'].split('-')[0] for record in records} == {'scene0', 'scene1'}


def test_sliding_blocks_give_the_same_votes_in_every_batch(tmp_path):
    cfg = indoor(tmp_path, 's3dis')
    found = []
    cfg.test_dataloader.dataset.indices = [1]
    for size in (1, 5):
        cfg.work_dir = str(tmp_path / f'work{size}')
        cfg.experiment_name = f'blocks-{size}-{tmp_path.name}'
        cfg.smoothing.batch_size = size
        cfg.randomness = dict(seed=size)
        torch.manual_seed(0)
        runner = Runner.from_cfg(cfg)
        torch.manual_seed(0)
        for parameter in runner.model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        runner.test()
        (votes,) = (tmp_path / f'work{size}' / 'certified').glob('votes-*')
        found.append([record.votes.hits for record in read_folder(votes)])
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_lidar_scenes_keep_their_intensity(tmp_path):
    """A scan in SemanticKITTI's format; its stock models need CUDA, so a PointNet++ reads it."""
    rng = np.random.default_rng(1)
    base = Config.fromfile(CONFIGS / '_base_/datasets/semantickitti.py')
    scan = scene(rng, 4)
    scan.tofile(tmp_path / 'scan.bin')
    labels = rng.choice(list(base.labels_map), POINTS).astype(np.uint32) + (3 << 16)
    labels.tofile(tmp_path / 'scan.label')
    info = dict(
        lidar_points=dict(num_pts_feats=4, lidar_path='scan.bin'),
        pts_semantic_mask_path='scan.label',
    )
    dump(dict(metainfo=dict(DATASET='SemanticKITTI'), data_list=[info]), tmp_path / 'infos.pkl')
    cfg = Config.fromfile(INDOOR['s3dis'])
    cfg.model.backbone.update(in_channels=4, num_points=(32, 16, 8, 4))
    cfg.model.decode_head.update(num_classes=19, ignore_index=19)
    cfg.model.test_cfg = dict(mode='whole')
    cfg.test_dataloader = base.test_dataloader
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset.update(
        data_root=str(tmp_path),
        ann_file='infos.pkl',
        data_prefix=dict(pts='', pts_semantic_mask=''),
        indices=None,
    )
    cfg.test_evaluator = []
    cfg.work_dir = str(tmp_path / 'work')
    cfg.experiment_name = f'lidar-{tmp_path.name}'
    cfg.default_hooks = dict(smoothing=dict(type='mmcert.SmoothingHook'))
    cfg.smoothing = dict(sigma=0.05, n0=4, n=24, tau=0.5, alpha=0.05, strict_weights=False)
    runner = Runner.from_cfg(cfg)
    seen = []
    runner.model.backbone.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0]))
    metrics = runner.test()
    assert 0 <= metrics['certified/abstain'] <= 1
    clouds = torch.cat(seen)
    # The clean one twice, to see that the model repeats itself, in three batches of two and
    # one of eight, and once more after its draws.
    checks = 2 + 3 * 2 + 8
    assert len(clouds) == checks + 4 + 24 + 1
    intensity = torch.from_numpy(scan[:, 3])
    assert torch.equal(clouds[:, :, 3], intensity.expand(len(clouds), -1))
    moved = clouds[checks:-1, :, :3] - torch.from_numpy(scan[:, :3])
    assert float(moved.std()) == pytest.approx(0.05, rel=0.05)


def test_models_of_sparse_convolutions_say_that_they_need_cuda():
    cfg = Config.fromfile(CONFIGS / '_base_/models/minkunet.py').model
    cfg.backbone.sparseconv_backend = 'spconv'
    with pytest.raises(RuntimeError, match='runs on a CUDA device only: .*backbone'):
        prepare_for_clouds(MODELS.build(cfg))
