"""Lipschitz constants of transformations in their parameter, against densely sampled speeds."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from mmcert.transformations import build
from mmcert.transformations.cosine import power
from mmcert.transformations.operators import Interpolant, pixel_grid, read_bilinear

SIZES = [(12, 18), (13, 11)]


def rough(height, width, count=1, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((count, 2, height, width)))


def smooth(height, width, count=1, seed=0):
    noise = scipy.ndimage.gaussian_filter(rough(height, width, count, seed), (0, 0, 2, 2))
    return torch.from_numpy((noise - noise.min()) / (noise.max() - noise.min()))


def beyond(height, width, count=1, seed=0):
    """Values outside [0, 1], as attacked images have them."""
    return 4 * rough(height, width, count, seed) - 1.5


def distances(transformation, image, a, b):
    copies = image.expand(len(a), -1, -1, -1)
    apart = transformation.transform(copies, a) - transformation.transform(copies, b)
    return apart.flatten(1).norm(dim=1)


# Transformation, interval, and what the constant over the largest observed speed may be at most.
# All but the last six are exact; their excess is that of the samples, which miss the fastest place.
CASES = [
    ('brightness', -0.7, 0.4, 1 + 1e-9),
    ('contrast', -1.0, 0.5, 1.005),
    (dict(type='contrast', pivot='zero'), -3.0, -2.9, 1.0005),
    ('gamma', 0.2, 5.0, 1.05),
    ('gamma', 0.9, 1.0, 1.001),
    ('gaussian_blur', 0.0, 2.0, 1.03),
    ('gaussian_blur', 1.5, 9.0, 1.02),
    ('gaussian_blur', 0.1, 0.11, 1.0005),
    ('defocus_blur', 0.0, 4.0, 1.1),
    ('defocus_blur', 0.5, 0.51, 1.0005),
    ('defocus_blur', 2.2, 2.25, 1.0005),
    ('defocus_blur', 6.0, 10.0, 1.03),
    ('rotational_blur', 0.0, 2.0, 1.1),
    (dict(type='rotational_blur', steps=4), 20.0, 20.1, 1.05),
    (dict(type='rotational_blur', steps=2), 85.0, 90.0, 1.1),
    ('zoom_blur', 1.0, 1.1, 1.05),
    (dict(type='zoom_blur', steps=4), 1.7, 1.701, 1.02),
    (dict(type='zoom_blur', steps=2), 3.0, 4.0, 1.05),
]


# Corners of boxes, and what the constants over the largest observed speeds may be at most.
BOXES = [
    ('brightness_contrast', (-0.7, -0.3), (0.5, 0.4), (1.01, 1 + 1e-9)),
    (dict(type='brightness_contrast', pivot='zero'), (-0.7, -0.9), (0.5, 0.1), (1.05, 1.01)),
    ('rotation_scaling', (-0.4, 0.99), (0.3, 1.02), (1.8, 1.8)),
    ('rotation_scaling', (20.0, 0.3), (20.2, 0.31), (1.6, 1.8)),
    (dict(type='rotation_scaling', padding='zeros'), (-91.0, 1.5), (-90.0, 1.6), (1.8, 1.8)),
    ('rotation_scaling', (0.0, 0.998), (0.0, 1.0), (1.8, 1.5)),
    ('motion_blur', (0.0, 0.0), (1.0, 0.0), (1.05, 1)),
    ('motion_blur', (0.0, -95.0), (0.5, -85.0), (1.3, 1.8)),
    ('motion_blur', (2.0, 85.0), (2.1, 95.0), (1.3, 1.3)),
    ('motion_blur', (2.0, -20.0), (3.0, 20.0), (1.4, 1.5)),
    ('motion_blur', (3.0, 174.0), (3.0, 180.0), (1.4, 1.3)),
    (dict(type='motion_blur', steps=3), (5.2, 30.0), (5.3, 31.0), (1.6, 1.3)),
    (dict(type='motion_blur', steps=1), (5.2, 30.0), (5.3, 31.0), (1.6, 1.3)),
    ('motion_blur', (30.0, 40.0), (30.2, 40.0), (4, 1)),
]


@pytest.mark.parametrize('make', [rough, smooth, beyond])
@pytest.mark.parametrize(('cfg', 'low', 'high', 'factor'), CASES)
def test_no_pair_is_faster_and_some_pair_is_nearly_as_fast(cfg, low, high, factor, make):
    transformation = build(cfg)
    grid = torch.linspace(low, high, 240, dtype=torch.float64)[:, None]
    ends = torch.from_numpy(np.random.default_rng(1).uniform(low, high, (2, 60, 1)))
    for size in SIZES:
        image = make(*size)
        found = float(transformation.lipschitz(image, low, high))
        steps = distances(transformation, image, grid[:-1], grid[1:]) / (grid[1] - grid[0])
        jumps = distances(transformation, image, *ends) / (ends[0] - ends[1])[:, 0].abs()
        fastest = float(torch.cat([steps, jumps]).max())
        assert fastest * (1 - 1e-9) <= found <= fastest * factor


@pytest.mark.parametrize('make', [rough, smooth, beyond])
@pytest.mark.parametrize(('cfg', 'low', 'high', 'factors'), BOXES)
def test_no_pair_of_a_box_is_farther_apart_than_its_constants_say(cfg, low, high, factors, make):
    transformation, rng = build(cfg), np.random.default_rng(1)
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    for size in SIZES:
        image = make(*size)
        found = transformation.lipschitz(image, low, high)
        assert found.shape == (1, len(low)) and found.dtype == torch.float64
        # Anywhere, and at corners.
        shares = torch.from_numpy(rng.uniform(-0.3, 1.3, (2, 300, len(low)))).clamp(0, 1)
        u, v = low + shares * (high - low)
        most = (found[0] * (u - v).abs()).sum(dim=1)
        assert (distances(transformation, image, u, v) <= most * (1 + 1e-9) + 1e-9).all()
        for axis, factor in enumerate(factors):
            if low[axis] == high[axis]:
                assert found[0, axis] == 0
                continue
            step = 1e-4 * (high[axis] - low[axis])
            near, place = u.clone(), u[:, axis]
            near[:, axis] = torch.where(place > low[axis] + step, place - step, high[axis])
            way = (u - near)[:, axis].abs()
            fastest = float((distances(transformation, image, u, near) / way).max())
            assert fastest * (1 - 1e-6) <= found[0, axis] <= fastest * factor


RANGES = {
    'rotation': [(-360, 360)],
    'scaling': [(0.1, 10)],
    'rotation_scaling': [(-95, 95), (0.5, 2.5)],
    'motion_blur': [(0, 25), (-180, 180)],
    'brightness_contrast': [(-2, 2), (-1, 1)],
    'contrast': [(-4, 4)],
    'gamma': [(0.2, 5)],
    'gaussian_blur': [(0, 50)],
    'defocus_blur': [(0, 12)],
    'rotational_blur': [(0, 90)],
    'zoom_blur': [(1, 4)],
}


@pytest.mark.parametrize('name', RANGES)
def test_constants_hold_in_boxes_of_any_place_and_size_and_for_any_image(name):
    transformation, rng = build(name), np.random.default_rng(3)
    ends = np.array(RANGES[name], dtype=float)
    for height, width in [(1, 1), (1, 7), (6, 1), (2, 3), (9, 14), (8, 8), (13, 13)]:
        image = torch.from_numpy(2 * rng.normal(size=(1, 2, height, width)))
        for _ in range(2):
            side = (ends[:, 1] - ends[:, 0]) * 10 ** rng.uniform(-4, -1.3, len(ends))
            low = rng.uniform(ends[:, 0], ends[:, 1] - side)
            if rng.random() < 0.5:
                # Ends of the range, identities, quarter turns.
                low = rng.choice([-1e9, 0, 1, 90, 1e9], len(ends)) - side * rng.integers(0, 2)
            low = np.clip(low, ends[:, 0], ends[:, 1] - side)
            found = transformation.lipschitz(image, low, low + side)[0]
            low, side = torch.from_numpy(low), torch.from_numpy(side)
            for apart in (1, 0.1, 1e-3):
                u = torch.from_numpy(rng.random((40, len(ends))))
                v = (u + apart * torch.from_numpy(rng.uniform(-1, 1, u.shape))).clamp(0, 1)
                far = distances(transformation, image, low + u * side, low + v * side)
                most = (found * ((u - v) * side).abs()).sum(dim=1)
                assert (far <= most * (1 + 1e-6) + 1e-9).all()


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'gamma', 'gaussian_blur',
                                  'defocus_blur', 'rotational_blur', 'zoom_blur'])  # fmt: skip
def test_every_image_of_a_batch_has_its_own_constant(name):
    low, high = 1.0, 1.03 if name.endswith('_blur') else 1.0
    images = torch.cat([rough(5, 6), smooth(5, 6)]).float()
    found = build(name).lipschitz(images, low, high)
    assert found.shape == (2, 1)
    assert found.dtype == torch.float64
    alone = [build(name).lipschitz(image[None].double(), low, high) for image in images]
    torch.testing.assert_close(found, torch.cat(alone))
    # Black: what no blur, stretch or power changes.
    constant = build(name).lipschitz(torch.zeros(1, 3, 5, 6).double(), low, high)
    assert float(constant) == pytest.approx(math.sqrt(90) if name == 'brightness' else 0, abs=1e-9)


def test_larger_intervals_have_no_smaller_constants():
    for name in ('contrast', 'gaussian_blur', 'defocus_blur'):
        image, transformation = rough(9, 12), build(name)
        constants = [float(transformation.lipschitz(image, 1.2, h)) for h in (1.3, 1.9, 3.6)]
        assert constants == sorted(constants)


def test_a_pair_of_turns_that_hardly_moves_has_a_small_constant():
    # The two copies turn against each other: their speeds cancel to first order about angle 0.
    image = smooth(31, 31)
    blur = build(dict(type='rotational_blur', steps=2))
    near, far = (float(blur.lipschitz(image, *ends)) for ends in ((0, 0.02), (8, 8.02)))
    assert near < 0.5 * far


def test_what_has_no_constant_asks_for_a_finite_set():
    for cfg, ends in [
        ('pixelate', (2, 3)),
        ('jpeg', (30, 40)),
        (dict(type='defocus_blur', kernel='benchmark'), (1, 2)),
        ('translation', ((0, 0), (1, 1))),
    ]:
        with pytest.raises(ValueError, match='finite set'):
            build(cfg).lipschitz(rough(5, 6), *ends)


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'gaussian_blur', 'defocus_blur',
                                  'rotational_blur', 'zoom_blur'])  # fmt: skip
def test_intervals_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match='low <= high, got 1 and 0.999|must lie in'):
        build(name).lipschitz(rough(5, 6), 1, 0.999)
    with pytest.raises(ValueError, match='must lie in'):
        build(name).lipschitz(rough(5, 6), 1, 1e6)


def test_boxes_that_are_none_are_refused():
    for low, high, message in [
        ((0, 1.2), (1, 1.1), 'a box needs one low <= high'),
        (([0, 1], [0, 1]), (1, 1), 'a box needs one low <= high'),
        (0, 1, r'shape \(2,\) or \(B, 2\): angle, factor'),
        ((0, 0.01), (1, 1), r'factor must lie in \[0.1, 10\]'),
    ]:
        with pytest.raises(ValueError, match=message):
            build('rotation_scaling').lipschitz(rough(5, 6), low, high)
        with pytest.raises(ValueError, match=message):
            build('rotation_scaling').reached(low, high, 5, 6)


# --- what the bounds are made of ---


@pytest.mark.parametrize('size', SIZES)
def test_the_powers_of_the_frequencies_add_up_to_the_squared_norm(size):
    from scipy.fft import dctn

    images = rough(*size, count=2)
    torch.testing.assert_close(power(images).sum((1, 2)), images.square().sum((1, 2, 3)))
    expected = (dctn(images.numpy(), axes=(2, 3), norm='ortho') ** 2).sum(1)
    np.testing.assert_allclose(power(images).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize('size', SIZES)
def test_derivatives_in_boxes_lie_in_their_ranges_and_nearly_reach_them(size):
    generator = torch.Generator().manual_seed(0)
    images, low, high = beyond(*size, count=2), *boxes(size, generator)
    slow, fast = torch.randn(2, *low.shape, generator=generator, dtype=torch.float64).sort(0)[0]
    # From exact velocities to boxes of them.
    fast = slow + (fast - slow) * torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
    read = Interpolant(images, 3.0 * max(size))
    least, largest = read.derivative_ranges(low, high, slow, fast)
    assert least.shape == largest.shape == (2, 2, *low.shape[:2])
    down, up = torch.full_like(least, math.inf), torch.full_like(least, -math.inf)
    for _ in range(80):
        # Beside the corners and inside.
        part = torch.rand(2, *low.shape, generator=generator, dtype=torch.float64)
        part = torch.where(part < 0.3, 1e-9, torch.where(part > 0.7, 1 - 1e-9, part))
        place = (low + part[0] * (high - low)).requires_grad_()
        velocity = slow + part[1] * (fast - slow)
        for image in range(2):
            for channel in range(2):
                values = read_bilinear(images[image : image + 1], place[None], 'reflection')
                (slope,) = torch.autograd.grad(values[0, channel].sum(), place)
                found = (slope * velocity).sum(dim=-1)
                assert (found >= least[image, channel] - 1e-6).all()
                assert (found <= largest[image, channel] + 1e-6).all()
                torch.minimum(down[image, channel], found, out=down[image, channel])
                torch.maximum(up[image, channel], found, out=up[image, channel])
    width = (largest - least).mean()
    assert ((down - least).mean() + (largest - up).mean()) < 0.25 * width


def boxes(size, generator):
    """Boxes inside and outside of the frame; those of the first row lie within cells."""
    places = torch.rand(6, 30, 2, generator=generator, dtype=torch.float64) - 0.5
    low = (places * 3 * torch.tensor(size[::-1])).floor() + torch.tensor(size[::-1]) / 2 - 0.5
    sides = torch.rand(6, 30, 2, generator=generator, dtype=torch.float64)
    start = torch.rand(6, 30, 2, generator=generator, dtype=torch.float64)
    start[0] = 0.1
    sides[0] *= 0.8
    return low + start, low + start + sides


@pytest.mark.parametrize(('name', 'low', 'high'), [
    ('rotational_blur', 0, 3), ('rotational_blur', 40, 46), ('rotational_blur', 0, 90),
    ('zoom_blur', 1, 1.1), ('zoom_blur', 2, 4),
])  # fmt: skip
@pytest.mark.parametrize('part', [0, 0.3, 1])
def test_positions_and_velocities_keep_to_their_boxes(name, low, high, part):
    blur, grid = build(name), pixel_grid(7, 10, torch.device('cpu'))
    at = torch.linspace(low, high, 101, dtype=torch.float64, requires_grad=True)
    places = torch.einsum('eij,hwj->ehwi', blur.backward_map(at, part), grid)
    limit = blur.speed_limit * grid.norm(dim=-1)
    least, largest, slow, fast = blur.path(grid, low, high, part)
    assert (places >= least - 1e-9).all()
    assert (places <= largest + 1e-9).all()
    torch.testing.assert_close(places.amin(0), least, rtol=0, atol=0.01)
    torch.testing.assert_close(places.amax(0), largest, rtol=0, atol=0.01)
    for y, x in np.ndindex(7, 10):
        velocity = torch.stack(
            [
                torch.autograd.grad(places[:, y, x, k].sum(), at, retain_graph=True)[0]
                for k in (0, 1)
            ],
            dim=-1,
        )
        assert (velocity >= slow[y, x] - 1e-9).all()
        assert (velocity <= fast[y, x] + 1e-9).all()
        assert (velocity.norm(dim=-1) <= limit[y, x] + 1e-9).all()
