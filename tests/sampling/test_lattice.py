"""Rounding to a grid: what a model receives is a function of the ideal sum of input and noise."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from mmcert.certify import certify
from mmcert.perturbations import (
    CoordinateNoise,
    GaussianNoise,
    LaplaceNoise,
    SlicedTransformation,
    SurrogateTransform,
)
from mmcert.perturbations.lattice import IMAGES, Lattice, lattice_below
from mmcert.perturbations.noise_level import MAX_SIGMA
from mmcert.sampling import collect_votes
from mmcert.surrogates import Surrogate


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def eight_bit(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=generator(seed)).float() / 255


# --- the grid ---


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_levels_of_an_8_bit_image_lie_on_the_grid_of_images(dtype):
    levels = torch.arange(256).to(dtype) / 255
    assert torch.equal(IMAGES.steps(levels), 1024 * torch.arange(256).to(dtype))
    assert torch.equal(IMAGES.add(levels, torch.zeros(1, 256, dtype=dtype))[0], levels)
    assert torch.equal((levels.float() * 255).round(), levels.float() * 255)


def test_other_images_do_not_lie_on_it():
    assert IMAGES.steps(eight_bit(50) + 2**-12) is None
    assert IMAGES.steps(torch.rand(50, generator=generator())) is None
    changed = eight_bit(50)
    assert IMAGES.steps(changed) is not None
    changed[3] += 1e-4
    assert IMAGES.steps(changed) is None
    assert Lattice(2.0**30).steps(changed) is not None


@pytest.mark.parametrize('shift', [0, 1, 1024, 77_777])
def test_only_the_sum_of_image_and_noise_matters(shift):
    # Two images and two noises of the same ideal sum, in grid steps.
    steps = torch.randint(0, 261_120, (1000,), generator=generator()).double()
    noise = 60_000 * torch.randn(1, 1000, generator=generator(1), dtype=torch.float64)
    exact = noise.round().float()
    images = [steps.div(261_120).float(), (steps + shift).div(261_120).float()]
    first = IMAGES.add(images[0], exact.clone())
    second = IMAGES.add(images[1], exact - shift)
    assert torch.equal(first, second)
    # The way of images that do not lie on the grid ends at the same values.
    between = torch.cat([images[0], torch.tensor([0.1 + 1e-9])]).double()
    assert IMAGES.steps(between) is None
    longer = torch.cat([exact, torch.zeros(1, 1)], dim=1)
    assert torch.equal(IMAGES.add(between, longer.double())[:, :-1].float(), first)


def test_whole_steps_are_all_that_is_left_of_a_sum():
    for inputs in (eight_bit(3, 20, 20), torch.rand(3, 20, 20, generator=generator())):
        for noise in (GaussianNoise(0.25), LaplaceNoise(0.25)):
            kept = inputs.clone()
            noisy = noise.sample_many(inputs, [generator(1), generator(2)])
            steps = (noisy.double() * IMAGES.per_unit).round()
            assert torch.equal(steps.div(IMAGES.per_unit).float(), noisy)
            assert torch.equal(inputs, kept)
    cloud, noise = torch.randn(50, 3, generator=generator()), CoordinateNoise(0.02)
    grid = lattice_below(0.02)
    assert 2**16 <= 0.02 * grid.per_unit < 2**17
    steps = noise.sample(cloud, generator()).double() * grid.per_unit
    assert torch.equal(steps, steps.round())


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_inputs_keep_their_type_and_values(dtype):
    inputs = eight_bit(3, 9, 9).to(dtype)
    kept = inputs.clone()
    noisy = GaussianNoise(0.25).sample_many(inputs, [generator(), generator()])
    assert noisy.dtype == dtype and torch.equal(noisy[0], noisy[1])
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize('sigma', [1e-4, 0.25, MAX_SIGMA])
def test_rounded_noise_keeps_its_law(sigma):
    noise = GaussianNoise(sigma).sample(torch.full((3, 80, 80), 0.5), generator()) - 0.5
    assert stats.kstest(noise.double().numpy().ravel() / sigma, stats.norm.cdf).pvalue > 1e-4


# --- models that read the last bits ---


def low_bits(batch):
    """Class 1 where small values have more bits than the sum with a level 1/1024 leaves."""
    values = torch.stack(list(batch)).flatten(1).double()
    small = (values.abs() < 2**-13) & (values != 0)
    fine = values * 2.0**34
    labels = ((fine != fine.round()) & small).any(1).long()
    return labels[:, None, None].expand(-1, *batch[0].shape[-2:])


def test_no_certificate_for_a_model_that_sees_the_image_in_the_last_bits_breaks():
    image, noise = torch.zeros(1, 96, 96), GaussianNoise(0.25)
    settings = {'n0': 20, 'n': 400, 'num_classes': 2, 'batch_size': 20}
    votes = collect_votes(low_bits, image, noise, **settings)
    found = certify(votes, tau=0.95, alpha=1e-3, procedure='holm', selection='holdout')
    for level in (2**-10, 1 / 255, 2**-9):
        attacked = image + level
        assert float((attacked - image).norm()) < noise.radius(0.95)
        after = collect_votes(low_bits, attacked, noise, **settings)
        assert not ((after.guess != votes.guess) & found.certified).any()


class Identity(nn.Module):
    """H: the first channel of the latent, square by square."""

    def forward(self, latents, size):
        return latents[:, :1].repeat_interleave(4, 2).repeat_interleave(4, 3)[..., : size[0], :]


def test_latents_and_moved_images_are_rounded_as_well():
    torch.manual_seed(0)
    surrogate = Surrogate('brightness', -0.3, 0.3, channels=1, latent_channels=2, stride=4, width=8)
    surrogate.decoder = Identity()
    image, scale = eight_bit(1, 8, 8), 0.25
    steps = SurrogateTransform(surrogate, 0.5, scale).sample(image, generator()).double()
    steps = steps * lattice_below(scale).per_unit
    assert torch.equal(steps, steps.round())
    moved = SlicedTransformation(dict(type='rotation'), -4, 4, 3, 0.25).part(0)
    assert IMAGES.steps(moved._moved(image)) is not None
    assert not torch.equal(moved._moved(image), image)


def test_the_step_follows_the_noise_whatever_the_unit():
    for scale in (1e-6, 0.3, 250.0):
        step = 1 / lattice_below(scale).per_unit
        assert math.log2(step) == round(math.log2(step))
        assert 2**-17 < step / scale <= 2**-16
