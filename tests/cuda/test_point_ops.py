"""The point operators of the CPU beside mmcv's own on a device, where mmcv is compiled."""

import importlib.machinery
import importlib.util

import pytest
import torch

from mmcert.pointops import kernels
from tests.pointops.test_kernels import clouds

pytestmark = pytest.mark.cuda


@pytest.fixture
def ops():
    """mmcv's operators."""
    pytest.importorskip('mmcv')
    locations = importlib.util.find_spec('mmcv').submodule_search_locations
    if importlib.machinery.PathFinder.find_spec('mmcv._ext', locations) is None:
        pytest.skip('mmcv is not compiled here (mmcv-lite)')
    return pytest.importorskip('mmcv.ops')


def squared(a, b):
    """Squared distances of (B, N, 3) and (B, M, 3) in double precision, (B, N, M)."""
    return (a.double()[:, :, None] - b.double()[:, None]).square().sum(dim=-1)


@pytest.mark.parametrize('kind', ['random', 'far'])
def test_furthest_points(ops, kind):
    points = clouds(4, 1000, kind, 0)
    found = ops.furthest_point_sample(points.cuda(), 64).cpu()
    expected = kernels.furthest_point_sample(points, 64)
    # A distance that is rounded otherwise may send one cloud of tight points another way.
    assert float((found == expected).float().mean()) > (0.99 if kind == 'random' else 0.5)


@pytest.mark.parametrize('radii', [(0.0, 0.3), (0.2, 0.6)])
def test_balls(ops, radii):
    points = clouds(3, 800, 'random', 1)
    centres = points[:, :100].contiguous()
    found = ops.ball_query(*radii, 16, points.cuda(), centres.cuda()).cpu()
    expected = kernels.ball_query(*radii, 16, points, centres)
    assert float((found == expected).float().mean()) > 0.999


def test_neighbours(ops):
    points, around = clouds(3, 700, 'random', 2), clouds(3, 90, 'random', 3)
    found = ops.knn(8, points.cuda(), around.cuda()).cpu()
    expected = kernels.knn(8, points, around)
    distances = squared(around, points)
    for index in (found, expected):
        mine = distances.gather(2, index.long().transpose(1, 2))
        best = distances.topk(8, largest=False, sorted=True).values
        torch.testing.assert_close(mine, best, rtol=1e-5, atol=1e-6)
    distance, three = ops.three_nn(around.cuda(), points.cuda())
    wanted, index = kernels.three_nn(around, points)
    torch.testing.assert_close(distance.cpu(), wanted, rtol=1e-5, atol=1e-6)
    assert float((three.cpu() == index).float().mean()) > 0.999


def test_features_are_gathered_grouped_and_interpolated(ops):
    torch.manual_seed(0)
    features = torch.randn(2, 7, 50)
    index = torch.randint(50, (2, 20, 6), dtype=torch.int32)
    three, weight = index[..., :3].contiguous(), torch.rand(2, 20, 3)
    pairs = (
        (ops.grouping_operation, kernels.group_points, (features, index)),
        (ops.gather_points, kernels.gather_points, (features, index[..., 0].contiguous())),
        (ops.three_interpolate, kernels.three_interpolate, (features, three, weight)),
    )
    for theirs, ours, inputs in pairs:
        found = theirs(*(part.cuda() for part in inputs)).cpu()
        torch.testing.assert_close(found, ours(*inputs), rtol=1e-6, atol=1e-6)
