"""Rounding to a grid: what a model receives is a function of the ideal sum of input and noise."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mmcert.certify import certify
from mmcert.perturbations import (
    CoordinateNoise,
    GaussianNoise,
    LaplaceNoise,
    SurrogateTransform,
    TransformationCells,
)
from mmcert.perturbations.lattice import LEVELS, on_levels, points_per_unit, rounded
from mmcert.perturbations.noise_level import MAX_SIGMA
from mmcert.surrogates import Surrogate
from tests.sampling.support import sample_votes

NOISES = [GaussianNoise(0.25), LaplaceNoise(0.25)]
TYPES = [torch.float16, torch.float32, torch.float64]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def eight_bit(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=generator(seed)).float() / 255


def without_noise(inputs):
    return on_levels(inputs, torch.full((1, *inputs.shape), 0.5))[0]


def levels_of(noisy):
    """Whole levels of noisy images, which must be the values of such."""
    steps = noisy.double().mul(LEVELS).round()
    assert torch.equal(steps.to(torch.promote_types(noisy.dtype, torch.float32)).div(LEVELS)
                       .to(noisy.dtype), noisy)  # fmt: skip
    assert not (torch.signbit(noisy) & (noisy == 0)).any()
    return steps


# --- what a model receives ---


@pytest.mark.parametrize('dtype', TYPES)
def test_the_levels_of_an_8_bit_image_lie_on_the_grid(dtype):
    levels = (torch.arange(256).double() / 255).to(dtype)
    assert torch.equal(without_noise(levels), levels)
    assert torch.equal((levels.float() * 255).round(), torch.arange(256).float())


@pytest.mark.parametrize('noise', NOISES, ids=repr)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_shifted_image_has_the_shifted_draws_and_nothing_else(noise, dtype):
    image = torch.randint(0, 200, (3, 30, 40), generator=generator())
    shifted = image + torch.randint(-9, 50, image.shape, generator=generator(1))
    first, second = (
        levels_of(noise.sample((x.double() / 255).to(dtype), generator(2)))
        for x in (image, shifted)
    )
    assert torch.equal(second - first, (shifted - image).double())


@pytest.mark.parametrize('noise', NOISES, ids=repr)
@pytest.mark.parametrize('dtype', TYPES)
def test_all_images_have_draws_of_the_same_values(noise, dtype):
    # Whether the image lay on the grid must not show: no other values, no sign of a zero.
    for inputs in (eight_bit(3, 30, 30), torch.rand(3, 30, 30, generator=generator())):
        for x in (inputs, torch.zeros(1, 30, 30), -torch.zeros(1, 30, 30)):
            x = x.to(dtype)
            kept = x.clone()
            noisy = noise.apply(x, noise.draw(x, [generator(1), generator(2)]))
            assert noisy.dtype == dtype and noisy.shape == (2, *x.shape)
            assert levels_of(noisy).unique().numel() > 100
            assert torch.equal(x, kept)


def test_values_between_levels_are_rounded_as_the_ideal_sum_is():
    inputs = torch.rand(20_000, generator=generator())
    noise = 64 * torch.randn(20_000, generator=generator(1))
    noisy = on_levels(inputs, (noise + 0.5)[None])[0]
    ideal = (inputs.double() * 255 + (noise + 0.5).double()).floor()
    # Up to the places that single precision tells apart.
    assert (levels_of(noisy) != ideal).double().mean() < 1e-3
    # An image halfway between levels, and one a hair beside a level, are no levels.
    half = torch.full((10,), 0.5 / 255)
    assert torch.equal(levels_of(without_noise(half)), torch.ones(10).double())
    beside = torch.nextafter(torch.tensor([7 / 255]), torch.tensor([0.0]))
    assert torch.equal(levels_of(without_noise(beside)), torch.tensor([7.0]).double())


def test_cells_smooth_the_function_that_noise_smooths():
    image, noise = eight_bit(1, 9, 12), GaussianNoise(0.25)
    cells = TransformationCells('rotation', -4, 4, noise, cells=3)
    parameters = cells.draw(image, [generator(3)])
    (noisy,) = cells.partition(image, 30).apply(parameters.clone(), 12)
    assert noisy.dtype == image.dtype
    levels_of(noisy)
    # The middle cell has the identity in the middle, up to how far the image moves on each side.
    alike = noise.sample(image, generator(3))
    assert (alike != noisy).float().mean() < 0.2


def test_grids_of_other_noise_follow_its_scale():
    for scale in (1e-6, 0.3, 250.0):
        step = 1 / points_per_unit(scale)
        assert math.log2(step) == round(math.log2(step))
        assert 2**-17 < step / scale <= 2**-16
        noise, x = CoordinateNoise(scale), torch.randn(50, 3).double()
        noisy = noise.apply(x, noise.draw(x, [generator(), generator(1)]))
        steps = noisy / step
        assert noisy.shape == (2, 50, 3) and torch.equal(steps, steps.round())
    values = torch.tensor([-0.4, -0.5, 0.5, 1.5, -1.5, -0.0]).double()
    assert rounded(values, 1.0).tolist() == [0, 0, 1, 2, -1, 0]
    assert not torch.signbit(rounded(values, 1.0)[[0, 1, 5]]).any()


# --- the law of what they receive ---


def residues(steps, modulus):
    return np.bincount(np.mod(steps.flatten().numpy(), modulus).astype(int), minlength=modulus)


@pytest.mark.parametrize('sigma', [0.05, 0.25, 1.0, MAX_SIGMA])
@pytest.mark.parametrize('offset', [0.0, 0.5 / 255])
def test_no_residue_of_whole_levels_is_more_likely_than_another(sigma, offset):
    # Rounding halves to even made odd numbers rarer, by up to 5 % of them.
    image = torch.full((3, 1000, 1000), offset, dtype=torch.float64)
    steps = levels_of(GaussianNoise(sigma).sample(image.float(), generator()))
    for modulus in (2, 3, 4, 8):
        # The ideal law is as flat for these: sigma is many of them.
        if modulus * 2 < sigma * LEVELS:
            assert stats.chisquare(residues(steps, modulus)).pvalue > 1e-4


@pytest.mark.parametrize('modulus', [2, 3, 16])
def test_no_residue_of_steps_of_clouds_and_latents_is_more_likely_than_another(modulus):
    for scale in (0.12, 0.75):
        noisy = CoordinateNoise(scale).sample(torch.rand(1, 500_000).double(), generator())
        steps = noisy * points_per_unit(scale)
        assert stats.chisquare(residues(steps, modulus)).pvalue > 1e-4


@pytest.mark.parametrize('sigma', [0.01, 0.25, MAX_SIGMA])
def test_rounded_noise_has_the_law_of_rounded_normal_numbers(sigma):
    steps = levels_of(GaussianNoise(sigma).sample(torch.zeros(3, 100, 100), generator()))
    values, counts = np.unique(steps.numpy(), return_counts=True)
    scale = sigma * LEVELS
    # Cells of about a thirtieth of the draws, or single levels.
    edges = np.unique(np.round(scale * stats.norm.ppf(np.linspace(0.03, 0.97, 30)))) + 0.5
    cells = np.bincount(np.searchsorted(edges, values), counts, len(edges) + 1)
    law = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]) / scale))
    assert stats.chisquare(cells, law * cells.sum()).pvalue > 1e-4


# --- models that read the last bits ---


def small_bits(batch):
    """Class 1 where small values have more bits than a sum with a level of 2^-10 would leave."""
    values = torch.stack(list(batch)).flatten(1).double()
    small = (values.abs() < 2**-13) & (values != 0)
    fine = values * 2.0**34
    return ((fine != fine.round()) & small).any(1)


def odd_majority(batch):
    """Class 1 where more than half of the values are an odd number of steps."""
    steps = (torch.stack(list(batch)).flatten(1).double() * LEVELS * 1024).round()
    return (steps % 2).mean(1) > 0.5


def negative_zeros(batch):
    values = torch.stack(list(batch)).flatten(1)
    return (torch.signbit(values) & (values == 0)).any(1)


@pytest.mark.parametrize('reads', [small_bits, odd_majority, negative_zeros])
@pytest.mark.parametrize('sigma', [0.05, 0.25])
def test_no_certificate_for_a_model_that_reads_last_bits_breaks(reads, sigma):
    def segment(batch):
        return reads(batch).long()[:, None, None].expand(-1, *batch[0].shape[-2:])

    noise, settings = GaussianNoise(sigma), {'n0': 20, 'n': 300, 'num_classes': 2, 'batch_size': 20}
    grey = torch.zeros(1, 96, 96)
    grey[0, 0, 0] = 3 / 255
    for image in (torch.zeros(1, 96, 96), eight_bit(1, 96, 96), grey):
        votes = sample_votes(segment, image, noise, **settings)
        found = certify(votes, tau=0.9, alpha=1e-3, procedure='holm', selection='holdout')
        radius = noise.radius(0.9)
        for shift in (2**-10, 0.3 / 255, 1 / 255 / 1024, 1e-7):
            attacked = image + min(shift, 0.99 * radius / 96)
            assert float((attacked - image).norm()) < radius
            after = sample_votes(segment, attacked, noise, **settings)
            assert not ((after.guess != votes.guess) & found.certified).any()


def test_a_cloud_is_not_seen_in_the_parity_of_its_steps():
    cloud, noise = torch.rand(20_000, 3, generator=generator()), CoordinateNoise(0.12)
    per_unit = points_per_unit(0.12)
    for shift in (0, 1 / per_unit):
        noisy = noise.sample(cloud + shift, generator(1)).double() * per_unit
        assert torch.equal(noisy, noisy.round())
        share = float((noisy % 2).mean())
        assert abs(share - 0.5) < 5 * 0.5 / 60_000**0.5


class FirstChannel(nn.Module):
    """H: the first channel of the latent, square by square."""

    def forward(self, latents, size):
        return latents[:, :1].repeat_interleave(4, 2).repeat_interleave(4, 3)[..., : size[0], :]


def test_latents_are_rounded_as_well():
    torch.manual_seed(0)
    surrogate = Surrogate('brightness', -0.3, 0.3, channels=1, latent_channels=2, stride=4, width=8)
    surrogate.decoder = FirstChannel()
    steps = SurrogateTransform(surrogate, 0.5, 0.25).sample(eight_bit(1, 8, 8), generator())
    steps = steps.double() * points_per_unit(0.25)
    assert torch.equal(steps, steps.round())
