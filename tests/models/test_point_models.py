"""Stock point-cloud models of mmdetection3d on the CPU."""

from pathlib import Path

import pytest
import torch

from mmcert.attacks import Goal, SmoothedScores, Steps, attack_input
from mmcert.compat import enable_mmcv_lite
from mmcert.perturbations import CoordinateNoise
from mmcert.pointops import install_cpu_point_ops, needs_cuda

enable_mmcv_lite()
mmdet3d = pytest.importorskip('mmdet3d')

import mmcv.ops  # noqa: E402
from mmdet3d.registry import MODELS  # noqa: E402
from mmdet3d.structures import Det3DDataSample, PointData  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.utils import import_modules_from_strings  # noqa: E402

from mmcert.models.point_segmentor import PointSegmentor  # noqa: E402

BASES = Path(mmdet3d.__file__).parent / '.mim/configs/_base_/models'
POINTNET = ['pointnet2_ssg', 'pointnet2_msg']
STOCK = [*POINTNET, 'paconv_ssg', 'paconv_ssg-cuda', 'dgcnn']
CLASSES = 13


@pytest.fixture(autouse=True)
def _scope():
    import_modules_from_strings(['mmdet3d.models', 'mmdet.models'])
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        yield


@pytest.fixture(scope='module', autouse=True)
def _installed():
    install_cpu_point_ops()


def build(name, **backbone):
    cfg = Config.fromfile(BASES / f'{name}.py').model
    cfg.decode_head.num_classes = CLASSES
    cfg.backbone.update(backbone)
    torch.manual_seed(0)
    return MODELS.build(cfg), cfg


def clouds(cfg, batch, number):
    torch.manual_seed(1)
    return torch.rand(batch, number, cfg.backbone.in_channels)


@pytest.mark.parametrize('name', STOCK)
def test_a_stock_model_predicts_and_learns_on_the_cpu(name):
    # PAConv's weight banks make it slow: fewer points, in layers as many as there are.
    slow = name.startswith('paconv')
    model, cfg = build(name, **(dict(num_points=(128, 64, 32, 16)) if slow else {}))
    points = clouds(cfg, 2, 1200 if name in POINTNET else 200)
    model.eval()
    with torch.no_grad():
        logits = model.encode_decode(points, [{}, {}])
    assert logits.shape == (2, CLASSES, points.shape[1]) and logits.isfinite().all()

    model.train()
    samples = []
    for _ in range(2):
        sample = Det3DDataSample()
        sample.gt_pts_seg = PointData(pts_semantic_mask=torch.randint(CLASSES, points.shape[1:2]))
        samples.append(sample)
    losses = model.loss({'points': list(points)}, samples)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert all(g.abs().sum() > 0 for n, g in gradients.items() if 'weight' in n)


@pytest.mark.parametrize('name', ['pointnet2_msg', 'dgcnn'])
def test_a_clouds_logits_do_not_depend_on_its_batch(name):
    model, cfg = build(name)
    points = clouds(cfg, 3, 1100 if name != 'dgcnn' else 200)
    model.eval()
    with torch.no_grad():
        together = model.encode_decode(points, [{}] * 3)
        alone = torch.cat([model.encode_decode(p[None], [{}]) for p in points])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_the_noise_of_pointnet_is_attacked():
    model, cfg = build('pointnet2_ssg')
    model.test_cfg.mode = 'whole'
    cloud = clouds(cfg, 1, 1100)[0]
    sample = Det3DDataSample(metainfo={'lidar_path': 'a.bin'})
    segment = PointSegmentor(model.eval().requires_grad_(False), cloud, sample)
    clean, noise = cloud[:, :3], CoordinateNoise(0.1)
    with torch.no_grad():
        labels = segment([clean])[0]
    assert torch.equal(segment.scores(clean[None]).argmax(dim=1)[0], labels)
    goal = Goal(labels, torch.ones_like(labels) > 0, 'ce')
    scores = SmoothedScores(segment.scores, noise, 2, torch.Generator().manual_seed(0))
    found = attack_input(scores, clean, goal, 0.5, steps=Steps(3))
    with torch.no_grad():
        before = goal.evaluate(scores(clean[None]), 0.0)[1]
    assert found.score.item() > before.item()


def test_names_bound_before_the_installation_are_covered_and_it_can_be_repeated():
    from mmcv.ops.furthest_point_sample import FurthestPointSampling
    from mmdet3d.models.layers.pointnet_modules import point_sa_module

    before = FurthestPointSampling.forward
    install_cpu_point_ops()
    assert FurthestPointSampling.forward is before
    points = torch.rand(1, 20, 3)
    index = mmcv.ops.furthest_point_sample(points, 4)
    assert index.dtype == torch.int32 and not index.requires_grad
    taken = point_sa_module.gather_points(points.transpose(1, 2).contiguous(), index)
    assert torch.equal(taken, points[:, index[0].long()].transpose(1, 2))


@pytest.mark.parametrize('stacked', [False, True])
def test_other_devices_and_stacked_clouds_go_to_mmcv(stacked, monkeypatch):
    from mmcv.ops.ball_query import BallQuery

    calls = []

    def original(ctx, *args):
        calls.append(args)
        return torch.zeros(1)

    from mmcert.pointops import install

    forward = install._dispatch_forward(install._indices('ball_query'), original)
    monkeypatch.setattr(BallQuery, 'forward', staticmethod(forward))
    if stacked:
        counts = torch.tensor([4], dtype=torch.int32)
        mmcv.ops.ball_query(0.0, 1.0, 2, torch.rand(4, 3), torch.rand(4, 3), counts, counts)
    else:
        points = torch.rand(1, 4, 3, device='meta')
        mmcv.ops.ball_query(0.0, 1.0, 2, points, points)
    assert len(calls) == 1


def test_gradients_through_the_installed_operators():
    features = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    index = torch.randint(7, (2, 4, 3), dtype=torch.int32)
    weight = torch.rand(2, 4, 3, dtype=torch.float64)
    for run in (
        lambda f: mmcv.ops.grouping_operation(f, index),
        lambda f: mmcv.ops.gather_points(f, index[..., 0].contiguous()),
        lambda f: mmcv.ops.three_interpolate(f, index, weight),
    ):
        assert torch.autograd.gradcheck(run, features)
    scores, points, centers = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 4, 3, 2), (2, 7, 2, 3), (2, 7, 2, 3))
    )
    for extra in ((), ('sum',)):
        assert torch.autograd.gradcheck(
            lambda *t, extra=extra: mmcv.ops.assign_score_withk(*t, index.long(), *extra),
            (scores, points, centers),
        )


@pytest.mark.parametrize('name', STOCK)
def test_point_models_need_no_cuda(name):
    assert needs_cuda(build(name)[0]) == []


def test_minkunet_says_what_needs_cuda():
    model, _ = build('minkunet', sparseconv_backend='spconv')
    found = needs_cuda(model)
    assert [part.split(' ')[0] for part in found] == ['data_preprocessor', 'backbone']
    assert 'minkunet' in found[0] and 'SparseConv3d' in found[1] and 'SubMConv3d' in found[1]


def test_cylinder3d_says_what_needs_cuda():
    cfg = Config.fromfile(BASES / 'cylinder3d.py').model
    model = MODELS.build(cfg)
    found = ' '.join(needs_cuda(model))
    assert 'backbone (' in found and 'voxel_encoder (DynamicScatter' in found
    assert 'decode_head (SubMConv3d)' in found
