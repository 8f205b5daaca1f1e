"""Corruptions of clouds: sizes and numbers as in PointCloud-C, and every point known."""

import math

import pytest
import torch

from mmcert.corruptions import CORRUPTIONS, GROUPS, SEVERITIES
from mmcert.corruptions.clouds import FUNCTIONS, CloudCorruption

NAMES = list(FUNCTIONS)


@pytest.fixture(scope='module')
def cloud():
    """1024 points in the unit ball about their centroid, with three other columns."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1024, 3, generator=generator)
    points -= points.mean(dim=0)
    points /= points.norm(dim=1).max()
    others = torch.arange(1024.0)[:, None].expand(-1, 3)
    return torch.cat([points, others], dim=1)


def corrupted(name, cloud, severity=2, seed=0, **options):
    return CloudCorruption(name, '', **options)(cloud, severity, seed)


@pytest.mark.parametrize('name', NAMES)
def test_a_cloud_is_corrupted_alike_whatever_came_before(name, cloud):
    first = corrupted(name, cloud)
    corrupted('jitter', cloud)
    again = corrupted(name, cloud)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.origin, again.origin)
    other = corrupted(name, cloud, seed=1)
    assert first.inputs.shape != other.inputs.shape or not torch.equal(first.inputs, other.inputs)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('severity', SEVERITIES)
def test_every_point_is_known(name, severity, cloud):
    found = corrupted(name, cloud, severity)
    old = found.origin >= 0
    assert len(found.origin) == len(found.inputs)
    # The other columns say which point it is.
    assert torch.equal(found.inputs[old, 3].long(), found.origin[old])
    assert (found.origin[old].diff() > 0).all()
    counts = {
        'dropout_global': 1024 * (7 - severity) // 8,
        'dropout_local': 1024 - 100 * severity,
        'add_global': 1024 + 10 * severity,
        'add_local': 1024 + 100 * severity,
    }
    assert len(found.inputs) == counts.get(name, 1024)
    if name.startswith(('dropout', 'add')):
        assert torch.equal(found.inputs[old, :3], cloud[found.origin[old], :3])
    assert bool(old.all()) == (not name.startswith('add'))
    if name.startswith('add'):
        assert not old[1024:].any()
        assert (found.inputs[:, :3] - cloud[:, :3].mean(dim=0)).norm(dim=1).max() <= 1 + 1e-6


def test_jitter_grows_with_the_cloud(cloud):
    for factor in (1.0, 40.0):
        large = cloud * torch.tensor([factor] * 3 + [1.0] * 3)
        moved = corrupted('jitter', large, 3).inputs[:, :3] - large[:, :3]
        assert moved.std().item() == pytest.approx(0.03 * factor, rel=0.05)


def test_rotations_keep_distances_and_turn_normals_along(cloud):
    angles = []
    for seed in range(20):
        found = corrupted('rotate', cloud, 5, seed)
        torch.testing.assert_close(found.inputs[:, :3].norm(dim=1), cloud[:, :3].norm(dim=1))
        angles.append(found.rotation.norm().item())
        assert torch.equal(found.inputs[:, 3:], cloud[:, 3:])
    # Three angles within 30 degrees.
    assert 0.2 < max(angles) < 3 * math.pi / 6
    both = torch.cat([cloud[:, :3], cloud[:, :3]], dim=1)
    turned = corrupted('rotate', both, 5, normals=True).inputs
    torch.testing.assert_close(turned[:, :3], turned[:, 3:])


def test_scaling_keeps_the_radius_and_changes_the_shape(cloud):
    found = corrupted('scale', cloud, 1).inputs[:, :3]
    centred = found - found.mean(dim=0)
    assert centred.norm(dim=1).max().item() == pytest.approx(1, rel=1e-5)
    factors = (centred / cloud[:, :3])[cloud[:, :3].abs().min(dim=1).values > 0.1]
    assert (factors.std(dim=0) < 1e-4).all()
    assert (factors[0].max() / factors[0].min()).item() <= 1.6**2


def test_local_dropout_takes_neighbours(cloud):
    found = corrupted('dropout_local', cloud, 1)
    gone = torch.ones(1024, dtype=torch.bool)
    gone[found.origin] = False
    lost = cloud[gone, :3]
    nearest = torch.cdist(lost, cloud[:, :3]).topk(2, largest=False).indices[:, 1]
    assert gone[nearest].float().mean() > 0.3  # At random it would be 0.1.


def test_small_clouds_lose_and_gain_as_large_a_share(cloud):
    small = cloud[:128]
    assert len(corrupted('add_local', small, 1).inputs) == 128 + 12
    assert len(corrupted('dropout_local', small, 5).inputs) == 128 - 62
    assert len(corrupted('dropout_local', cloud[:2], 5).inputs) == 1


def test_what_a_model_needs_is_filled_up_with_copies(cloud):
    found = corrupted('dropout_global', cloud, 5, least=300)
    assert len(found.inputs) == 300
    assert (found.origin[256:] == -1).all()
    assert torch.equal(found.inputs[256:], found.inputs[:44])


def test_what_is_no_cloud_is_refused(cloud):
    with pytest.raises(ValueError, match='takes clouds'):
        CORRUPTIONS['jitter'](cloud.long(), 1)
    with pytest.raises(ValueError, match='D >= 6, got'):
        corrupted('rotate', cloud[:, :3], normals=True)
    assert set(GROUPS['points']['common']) == set(NAMES)
