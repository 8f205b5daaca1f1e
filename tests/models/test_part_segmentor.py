"""The segmentor of parts: predictions, refusals, and a training step with its metric."""

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from tests.datasets.support import COUNTS
from tests.openmmlab import ROOT

pytest.importorskip('mmdet3d')

from mmdet3d.structures import Det3DDataSample

from mmcert.datasets.shapenet_part import CATEGORY_PARTS
from mmcert.models.part_segmentor import FOREIGN_LOGIT
from mmcert.pointops import install_cpu_point_ops
from mmcert.registry import MODELS

install_cpu_point_ops()
pytestmark = pytest.mark.usefixtures('mmdet3d_scope')

CLEAN = ROOT / 'configs/part_shapes/pointnet2-ssg-light_clean-20e_part-shapes-normals-1024.py'
XYZ = ROOT / 'configs/part_shapes/pointnet2-ssg-light_noise-s0.25-20e_part-shapes-xyz-1024.py'


def small_model(path=CLEAN):
    model = Config.fromfile(path).model
    channels = model.backbone.in_channels
    model.backbone.update(
        num_points=(32, 8, 1), num_samples=(8, 8, 8), sa_channels=((8, 8), (8, 8), (8, 16))
    )
    model.decode_head.update(
        channels=8, fp_channels=((24, 8), (16, 8), (8 + 16 + channels, 8)), dropout_ratio=0
    )
    return model


def clouds(categories, points=64, channels=6):
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(len(categories), points, channels + 16, generator=generator)
    batch[:, :, channels:] = 0
    for cloud, category in zip(batch, categories, strict=True):
        cloud[:, channels + category] = 1
    return batch


def build(model):
    torch.manual_seed(0)
    built = MODELS.build(model).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


@pytest.mark.parametrize('path', [CLEAN, XYZ], ids=['normals', 'xyz'])
def test_predictions_are_parts_of_the_category_and_the_same_in_a_batch(path):
    model = build(small_model(path))
    channels = 6 if path == CLEAN else 3
    categories = [4, 11, 0, 4]
    batch = clouds(categories, channels=channels)
    samples = [Det3DDataSample() for _ in categories]
    with torch.no_grad():
        together = model.inference(batch, [{}] * 4, True)
        predicted = model.predict(dict(points=list(batch)), samples)
        raw = model._forward(dict(points=list(batch)))
    assert together.shape == (4, 50, 64)
    parts = list(CATEGORY_PARTS.values())
    for logits, sample, category, free in zip(together, predicted, categories, raw, strict=True):
        single = sample.pts_seg_logits.pts_seg_logits
        torch.testing.assert_close(single, logits, rtol=1e-4, atol=1e-4)
        labels = sample.pred_pts_seg.pts_semantic_mask
        assert set(labels.tolist()) <= set(parts[category])
        foreign = sorted(set(range(50)) - set(parts[category]))
        assert (logits[foreign] == FOREIGN_LOGIT).all()
        torch.testing.assert_close(logits[list(parts[category])], free[list(parts[category])])
    assert not set(raw.argmax(dim=1).flatten().tolist()) <= {*parts[4], *parts[11], *parts[0]}


def test_the_category_changes_the_features_and_not_only_the_mask():
    model = build(small_model())
    first, second = clouds([4]), clouds([4])
    second[:, :, 6:] = clouds([11])[:, :, 6:]
    with torch.no_grad():
        difference = model._forward(dict(points=list(first))) - model._forward(
            dict(points=list(second))
        )
    assert difference.abs().max() > 1e-3


def test_multi_scale_grouping_works_too():
    model = Config.fromfile(
        ROOT / 'configs/shapenet_part/pointnet2-msg_clean-250e_shapenet-part-normals-2048.py'
    ).model
    model.backbone.update(num_points=(32, 8, 1))
    built = build(model)
    with torch.no_grad():
        assert built.inference(clouds([1, 2]), [{}, {}], True).shape == (2, 50, 64)


def damaged(kind):
    batch = clouds([4, 11])
    if kind == 'noise':
        batch += 0.01
    elif kind == 'two':
        batch[:, :, 6] = 1
    elif kind == 'none':
        batch[:, :, 6:] = 0
    elif kind == 'mixed':
        batch[0, 5, 6:] = batch[1, 5, 6:]
    return batch


@pytest.mark.parametrize(
    ('batch', 'message'),
    [
        *((damaged(kind), 'one-hot') for kind in ('noise', 'two', 'none', 'mixed')),
        (clouds([4])[:, :, :16], '16 columns.*AppendCategory'),
        (clouds([4], points=31), 'samples 32 points first and got clouds of 31'),
        (clouds([4], channels=3), 'made for 30 channels.*gets 8 .* 16 .* 3 of'),
    ],
)
def test_clouds_that_the_segmentor_cannot_take_are_refused(batch, message):
    model = build(small_model())
    if 'made for' in message:
        model.backbone = build(small_model(XYZ)).backbone
    with pytest.raises(ValueError, match=message):
        model.inference(batch, [{}] * len(batch), True)


def test_clouds_of_different_sizes_are_refused_in_training_and_welcome_in_prediction():
    model = build(small_model())
    points = [clouds([4])[0], clouds([4], points=80)[0]]
    with pytest.raises(ValueError, match='same size'):
        model.loss(dict(points=points), [])
    predicted = model.predict(dict(points=points), [Det3DDataSample(), Det3DDataSample()])
    assert [len(s.pred_pts_seg.pts_semantic_mask) for s in predicted] == [64, 80]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(category_parts=[[0, 50]]), 'category 0 must be labels in 0 to 49'),
        (dict(category_parts=[[0], []]), 'category 1'),
        (dict(test_cfg=dict(mode='slide')), "mode='whole'"),
    ],
)
def test_impossible_segmentors_are_refused(options, message):
    model = small_model()
    model.update(options)
    with pytest.raises(ValueError, match=message):
        MODELS.build(model)


def test_one_training_step_and_validation_through_the_runner(shapes_root, tmp_path):
    cfg = Config.fromfile(XYZ)
    cfg.model = small_model(XYZ)
    cfg.work_dir = str(tmp_path)
    for mode in ('train', 'val', 'test'):
        loader = cfg[f'{mode}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
        loader.dataset.update(
            data_root=str(tmp_path),
            shapes_per_category=COUNTS,
            points=80,
            categories=['Mug', 'Cap'],
        )
        loader.dataset.pipeline[2].num_points = 64
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.experiment_name = 'part-shapes-step'
    cfg.visualizer.name = cfg.experiment_name
    runner = Runner.from_cfg(cfg)
    before = runner.model.decode_head.conv_seg.weight.detach().clone()
    runner.train()
    assert (runner.model.decode_head.conv_seg.weight != before).any()
    assert (tmp_path / 'epoch_1.pth').exists()
    metrics = runner.test()
    assert set(metrics) == {
        f'part/{key}' for key in ('accuracy', 'instance_mIoU', 'class_mIoU', 'Mug', 'Cap')
    }
    assert all(0 <= value <= 1 for value in metrics.values())
