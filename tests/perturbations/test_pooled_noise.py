"""Noise on the means of blocks: what reaches the model, and how far attacks move it."""

import pytest
import torch

from mmcert.certify import certify
from mmcert.perturbations import GaussianNoise, PooledNoise, from_spec
from mmcert.sampling import SamplingSettings, collect_votes


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_one_pixel_blocks_are_gaussian_noise():
    x = torch.rand(3, 5, 7)
    noise, plain = PooledNoise(1, 0.25), GaussianNoise(0.25)
    ours = noise.apply(x, noise.draw(x, generators(3)))
    assert torch.equal(ours, plain.apply(x, plain.draw(x, generators(3))))
    assert noise.radius(0.9) == plain.radius(0.9)


@pytest.mark.parametrize('size', [(8, 12), (9, 14), (3, 5)])
def test_blocks_are_averaged_and_resized(size):
    x = torch.rand(2, *size, generator=torch.Generator().manual_seed(1))
    noise = PooledNoise(4, 1e-6)
    found = noise.apply(x, noise.draw(x, generators(1)))[0]
    assert found.shape == x.shape and found.dtype == x.dtype
    height, width = (-(-side // 4) for side in size)
    means = torch.stack([
        torch.stack([
            x[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean(dim=(1, 2)) for j in range(width)
        ], dim=1) for i in range(height)
    ], dim=1)  # fmt: skip
    whole = torch.nn.functional.interpolate(
        means[None], size=(4 * height, 4 * width), mode='bilinear', align_corners=False
    )[0, :, : size[0], : size[1]]
    # Sums of parts of a block are rounded to whole levels before they are divided by their share.
    assert (found - whole).abs().max() <= 16 / (255 * 2)
    if size == (8, 12):
        assert (found - whole).abs().max() <= 0.51 / 255


@pytest.mark.parametrize('size', [(8, 12), (9, 14)])
def test_no_attack_moves_the_means_farther_than_the_constant(size):
    noise = PooledNoise(4, 0.125)
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, *size, dtype=torch.float64, generator=rng)
    for _ in range(20):
        delta = torch.randn(x.shape, dtype=torch.float64, generator=rng)
        far = (noise.coordinates(x + delta) - noise.coordinates(x)).norm()
        assert far <= noise.lipschitz * delta.norm() * (1 + 1e-12)
    # A whole block that moves alike attains it.
    delta = torch.zeros_like(x)
    delta[:, 0, :4, :4] = 1
    far = (noise.coordinates(x + delta) - noise.coordinates(x)).norm()
    assert far == pytest.approx(float(noise.lipschitz * delta.norm()))
    assert noise.radius(0.9) == pytest.approx(1.2815515655446004 * 0.125 * 4)


def test_the_smoothed_class_of_a_block_keeps_as_far_as_the_radius():
    """A linear functional of one mean: its smoothed probability is known."""
    noise = PooledNoise(2, 0.1)
    x = torch.full((1, 4, 4), 0.6)

    def bright(images):
        return (torch.stack(images)[:, 0] > 0.5).long()

    votes = collect_votes(bright, x, noise, SamplingSettings(10, 1000, 2))
    # P[mean + e > 1/2] = Phi(1) in the corners: resized means are averages elsewhere.
    share = votes.hits[0, 0] / 1000
    assert abs(share - 0.8413) < 0.04
    assert certify(votes, tau=0.75, alpha=1e-3).certified[0, 0]


def test_a_spec_gives_it_back_and_bad_factors_are_refused():
    noise = PooledNoise(4, 0.125)
    assert repr(from_spec(noise.spec())) == repr(noise)
    assert '4 x 4 pixels' in noise.guarantee(0.9).distribution
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match='factor must be an integer'):
            PooledNoise(bad, 0.1)
