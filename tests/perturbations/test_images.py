"""Perturbations of images: composition, attacks at the edge of the radius, certificates."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from mmcert.certify import Votes, certify
from mmcert.perturbations import (
    BrightnessContrast,
    CyclicTranslation,
    Exponential,
    FoldedNormal,
    Gaussian,
    GaussianBlur,
    Laplace,
    LaplaceNoise,
    Uniform,
)
from mmcert.perturbations.base import LARGEST_TAU
from mmcert.perturbations.worst_sets import (
    MARGIN,
    MOST_CURVED,
    STEEPEST,
    least_kept,
    published_offset,
)
from mmcert.sampling import SamplingSettings, SegmentorOutputError, collect_votes
from mmcert.sampling.draws import ESTIMATION, SELECTION, draw_seed, input_digest
from mmcert.transformations.cosine import dct, frequencies, idct

BLURS = [
    GaussianBlur(Exponential(4.0)),
    GaussianBlur(Uniform(12.0, one_sided=True)),
    GaussianBlur(FoldedNormal(6.0)),
]
BOX = BrightnessContrast(0.3, 0.3, (0.8, 1.2))
SHIFT = CyclicTranslation(3.0)
TRANSFORMATIONS = [*BLURS, BOX, BrightnessContrast(0.1, 0.2), SHIFT]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image(*shape, seed=1, dtype=torch.float64):
    return torch.rand(shape or (3, 11, 14), generator=generator(seed), dtype=dtype)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(params=TRANSFORMATIONS, ids=repr)
def transformation(request):
    return request.param


@pytest.fixture(params=BLURS, ids=repr)
def blur(request):
    return request.param


# Composition


@settings(max_examples=25, deadline=None)
@given(
    a=st.floats(0, 50),
    b=st.floats(0, 50),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 17), st.integers(1, 17)),
)
def test_variances_of_blurs_add(a, b, shape):
    x = image(*shape)
    twice = BLURS[0].transform(BLURS[0].transform(x, numbers(a)), numbers(b))
    torch.testing.assert_close(twice, BLURS[0].transform(x, numbers(a + b)), rtol=0, atol=1e-14)
    single = BLURS[0].transform(BLURS[0].transform(x.float(), numbers(a)), numbers(b))
    torch.testing.assert_close(single.double(), twice, rtol=0, atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_brightness_and_contrast_compose_to_another_one(values):
    k, b, k_2, b_2 = values
    x = image()
    twice = BOX.transform(BOX.transform(x, numbers(k, b)), numbers(k_2, b_2))
    once = BOX.transform(x, numbers(k + k_2, b + math.exp(-k) * b_2))
    torch.testing.assert_close(twice, once, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(BOX.transform(x, numbers(k, b)), math.exp(k) * (x.numpy() + b))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-40, 40), min_size=4, max_size=4))
def test_shifts_add_and_labels_move_back(values):
    dy, dx, down, right = values
    x = image()
    twice = SHIFT.transform(SHIFT.transform(x, numbers(dy, dx)), numbers(down, right))
    assert torch.equal(twice, SHIFT.transform(x, numbers(dy + down, dx + right)))
    assert torch.equal(SHIFT.map_labels(twice[None], numbers(dy + down, dx + right)[None])[0], x)
    # What was at v is at v + shift.
    assert twice[0, (2 + dy + down) % 11, (5 + dx + right) % 14] == x[0, 2, 5]


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 1, 6), (3, 7, 10), (2, 8, 5)])
def test_the_cosine_transform_is_the_standard_one(shape):
    x = image(*shape)
    np.testing.assert_allclose(dct(x), scipy.fft.dctn(x.numpy(), axes=(1, 2)), atol=1e-12)
    torch.testing.assert_close(idct(dct(x)), x)
    torch.testing.assert_close(idct(dct(x.float())), x.float())


def convolved(x, kernel):
    """Convolution of the mirrored image with a kernel of odd length along both axes."""
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (len(kernel) // 2,) * 2
        padded = np.pad(x, pad, mode='symmetric')
        x = np.apply_along_axis(lambda line: np.convolve(line, kernel, 'valid'), axis, padded)
    return x


@pytest.mark.parametrize('variance', [0.3, 2.0, 9.0])
def test_blur_is_a_convolution_of_the_mirrored_image(variance):
    x = image(2, 9, 12)
    found = BLURS[0].transform(x, numbers(variance)).numpy()
    # The kernel whose frequency response is exactly Gaussian on [-pi, pi], by Fourier inversion.
    taps = np.arange(-60, 61)
    omega = (np.arange(4000) + 0.5) / 4000 * np.pi
    kernel = np.cos(np.outer(taps, omega)) @ np.exp(-variance * omega**2 / 2) / 4000
    if variance >= 2:  # Below, the kernel decays slowly and 60 taps do not hold it.
        np.testing.assert_allclose(found, convolved(x.numpy(), kernel), atol=1e-6)
        assert (kernel * taps**2).sum() == pytest.approx(variance, abs=0.05)
    # The sampled Gaussian kernel differs by its aliases alone.
    sampled = np.exp(-(taps**2) / (2 * variance))
    aliases = 4 * np.exp(-variance * np.pi**2 / 2) + 1e-12
    np.testing.assert_allclose(
        found, convolved(x.numpy(), sampled / sampled.sum()), atol=2 * aliases
    )


def test_a_truncated_kernel_would_not_do():
    x = image(1, 1, 64)
    taps = np.arange(-3, 4)

    def truncated(values, variance):
        kernel = np.exp(-(taps**2) / (2 * variance))
        return convolved(values, kernel / kernel.sum())

    off = truncated(truncated(x.numpy(), 2.0), 3.0) - truncated(x.numpy(), 5.0)
    assert np.abs(off).max() > 1e-3


def test_blur_has_no_border_and_no_drift():
    constant = torch.full((1, 6, 9), 0.3, dtype=torch.float64)
    for variance in (0.0, 1.0, 1e4):
        torch.testing.assert_close(BLURS[0].transform(constant, numbers(variance)), constant)
    x = image()
    mean = x.mean(dim=(1, 2), keepdim=True).expand_as(x)
    torch.testing.assert_close(BLURS[0].transform(x, numbers(1e6)), mean)
    torch.testing.assert_close(BLURS[0].transform(x, numbers(0.0)), x)
    half = BLURS[0].transform(x.half(), numbers(2.0))
    assert half.dtype == torch.float16
    torch.testing.assert_close(
        half.double(), BLURS[0].transform(x, numbers(2.0)), rtol=0, atol=2e-3
    )


def test_attacks_by_gradient_reach_the_parameter():
    parameter = numbers(2.0).requires_grad_()
    BLURS[0].transform(image(), parameter).square().sum().backward()
    assert parameter.grad.item() < 0
    both = numbers(0.1, 0.2).requires_grad_()
    BOX.transform(image(), both).sum().backward()
    assert (both.grad > 0).all()


# Draws


def test_laplace_noise_has_its_law():
    noise = LaplaceNoise(0.5).sample(torch.zeros(3, 80, 80), generator()).double().numpy()
    assert stats.kstest(noise.ravel(), stats.laplace(0, 0.5).cdf).pvalue > 1e-4
    across = np.corrcoef(noise.reshape(3, -1)) - np.eye(3)
    assert np.abs(across).max() < 5 / 6400**0.5


def test_parameters_have_their_law():
    count = 3000

    def drawn(law):
        return law.draw(image(), [generator(seed) for seed in range(count)]).numpy()

    for blur, law in zip(
        BLURS, (stats.expon(0, 4), stats.uniform(0, 12), stats.halfnorm(0, 6)), strict=True
    ):
        draws = drawn(blur)
        assert draws.shape == (count, 1) and stats.kstest(draws[:, 0], law.cdf).pvalue > 1e-4
    draws = drawn(BrightnessContrast(0.1, 0.4))
    for column, sigma in zip(draws.T, (0.1, 0.4), strict=True):
        assert stats.kstest(column, stats.norm(0, sigma).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / count**0.5
    draws = drawn(SHIFT)
    assert (draws == draws.round()).all()
    steps = np.arange(-6, 7)
    expected = ndtr((steps + 0.5) / 3) - ndtr((steps - 0.5) / 3)
    for column in draws.T:
        share = (column[:, None] == steps).mean(axis=0)
        assert (np.abs(share - expected) < 5 * np.sqrt(expected / count)).all()


# Radii


@pytest.mark.parametrize('tau', [0.5, 0.75, 0.999])
@pytest.mark.parametrize('target', [0.5, 0.7])
def test_radii_are_those_of_the_laws(tau, target):
    assert LaplaceNoise(0.2).radius(tau, target) == Laplace(0.2).radius(tau, target)
    assert SHIFT.radius(tau, target) == Gaussian(3.0).radius(tau, target)
    brightness = BrightnessContrast(0.1, 0.2)
    assert brightness.radius(tau, target) == pytest.approx(Gaussian(0.2).radius(tau, target))
    for blur in BLURS:
        assert blur.radius(tau, target) == blur.law.radius(tau, target)


def test_the_published_bound_of_brightness_and_contrast_matches_the_vectors(vectors):
    for vector in vectors['E_tss_bc']:
        inputs, expected = vector['inputs'], vector['expected']
        tau, scales = inputs['p'], (inputs['sigma_k'], inputs['sigma_b'])
        ends = [inputs['k']] if 'k' in inputs else [inputs['k_l'], inputs['k_r']]
        published = [published_offset(tau, k, scales[0]) or 0.0 for k in ends]
        assert scales[1] * min(published) == pytest.approx(expected['radius_b'], rel=1e-9)
        # The exact value is never below.
        perturbation = BrightnessContrast(*scales, [min(1, math.exp(ends[0])), math.exp(ends[-1])])
        assert perturbation.radius(tau) >= expected['radius_b'] * (1 - 1e-12)


def test_covered_shifts_match_the_vectors(vectors):
    for vector in vectors['L_lattice']:
        inputs, expected = vector['inputs'], vector['expected']
        shift = CyclicTranslation(inputs['sigma'])
        assert shift.radius(inputs['tau']) == pytest.approx(expected['R'], rel=1e-9)
        assert shift.covered_shifts(inputs['tau']) == expected['covered']
    assert SHIFT.covered_shifts(0.5) == 1


NODES = np.linspace(-9, 9, 1801)
WEIGHTS = stats.norm.pdf(NODES) / stats.norm.pdf(NODES).sum()


def worst_after(perturbation, k, b, tau):
    """Neyman-Pearson for (k, b): the least probability of a set of probability tau.

    In units of the scales, the parameter goes from N(0, I) to N((m, n), diag(1, s^2)). The
    logarithm of the likelihood ratio is m u plus a function of v, so given v the worst set is a
    half-line in u.
    """
    m, n, s = abs(k) / perturbation.sigma_k, b / perturbation.sigma_b, math.exp(-k)

    def rest(v):
        return v**2 / 2 - (v - n) ** 2 / (2 * s**2) - math.log(s)

    def before(level):
        return WEIGHTS @ ndtr((level + m**2 / 2 - rest(NODES)) / m)

    level = brentq(lambda value: before(value) - tau, -1000, 1000, xtol=1e-12)
    return WEIGHTS @ ndtr((level - m**2 / 2 - rest(n + s * NODES)) / m)


@pytest.mark.parametrize('scales', [(0.3, 0.3), (0.4, 0.1), (0.1, 0.5), (1.0, 0.2)])
@pytest.mark.parametrize('tau', [0.75, 0.9, 0.99, 0.999])
@pytest.mark.parametrize('target', [0.5, 0.8])
def test_the_worst_set_just_keeps_its_class_at_the_allowed_brightness(scales, tau, target):
    perturbation, checked = BrightnessContrast(*scales), 0
    for contrast in (0.6, 0.8, 0.95, 1.05, 1.2, 1.6):
        k = math.log(contrast)
        allowed = perturbation.allowed_brightness(tau, k, target)
        if allowed is None:
            assert worst_after(perturbation, k, 0.0, tau) < target
            continue
        # Of small contrasts, the steepest integrals stand for steeper ones.
        exact = abs(k) / scales[0] > allowed / scales[1] * max(1, math.exp(-k)) / STEEPEST
        error = 3e-6 if exact else 3e-4
        assert worst_after(perturbation, k, allowed, tau) == pytest.approx(target, abs=error)
        for part in (0, 0.5, 0.999):
            assert worst_after(perturbation, k, part * allowed, tau) > target
        checked += 1
    assert checked >= (tau - target > 0.1)


@pytest.mark.parametrize(
    ('contrast', 'tau', 'exact'),
    [(0.8, 0.9, 0.311546), (1.25, 0.9, 0.310609), (0.8, 0.99, 0.661220), (1.25, 0.99, 0.661162)],
)
def test_the_allowed_brightness_has_the_values_of_an_independent_computation(contrast, tau, exact):
    # By a search over levels with 6001 nodes, written by a reviewer.
    found = BrightnessContrast(0.3, 0.3).allowed_brightness(tau, math.log(contrast))
    assert found == pytest.approx(exact, abs=2e-6)


BOXES = [(0.8, 1.25), (0.9, 1.1), (0.99, 1.01), (0.5, 2.0), (0.7, 1.0), (1.0, 1.3), (0.999, 1.001)]


@pytest.mark.parametrize('sigma_k', [0.02, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize('target', [0.5, 0.8, 0.97])
def test_no_radius_of_brightness_and_contrast_is_below_the_published_one(sigma_k, target):
    for ends in BOXES:
        perturbation, last = BrightnessContrast(sigma_k, 1.0, ends), 0.0
        for tau in (0.5, 0.6, 0.75, 0.9, 0.99, 0.9999, 1 - 1e-9, LARGEST_TAU):
            published = [published_offset(tau, math.log(end), sigma_k, target) for end in ends]
            if None not in published:
                assert perturbation.covers(tau, target)
                assert perturbation.radius(tau, target) >= min(published)
            exact = [perturbation.allowed_brightness(tau, math.log(end), target) for end in ends]
            assert all(
                new >= (old or 0)
                for new, old in zip(exact, published, strict=True)
                if new is not None
            )
            radius = perturbation.radius(tau, target)
            assert last <= radius <= min(end or 0.0 for end in exact)
            # Not more than 0.1 % are given away for the contrasts between.
            if perturbation.covers(tau, target):
                limit = min(*exact, max(ndtri(tau) - ndtri(target), 0))
                assert radius >= 0.999 * limit - 1e-12
            last = radius


@pytest.mark.parametrize('ends', BOXES)
@pytest.mark.parametrize('sigma_k', [0.1, 0.35, 1.0])
def test_the_worst_set_keeps_its_class_at_every_contrast_of_the_box(ends, sigma_k):
    for tau, target in ((0.7, 0.5), (0.9, 0.5), (0.999, 0.5), (0.99, 0.9)):
        perturbation = BrightnessContrast(sigma_k, 0.2, ends)
        if not perturbation.covers(tau, target):
            continue
        radius = perturbation.radius(tau, target)
        for k in np.linspace(*np.log(ends), 24):
            if abs(k) > 0.02 * sigma_k:
                for part in (0.3, 1.0):
                    assert worst_after(perturbation, k, part * radius, tau) >= target


@pytest.mark.parametrize(('k', 'b'), [(-0.2, 0.25), (0.2, 0.25), (0.1, -0.4)])
def test_the_worst_set_of_contrasts_as_a_base_model(k, b):
    # The worst set as a model that reads (k, b) from two pixels, under draws of the class itself.
    perturbation, tau, count = BrightnessContrast(0.3, 0.3), 0.9, 6000
    x = numbers(0.0, 1.0).reshape(1, 1, 2)
    draws = 0.3 * torch.randn(count, 2, generator=generator(), dtype=torch.float64)

    def ratios(image):
        seen = torch.stack([perturbation.transform(image, theta)[0, 0] for theta in draws]).numpy()
        factor = seen[:, 1] - seen[:, 0]
        read_k, read_b = np.log(factor), seen[:, 0] / factor
        after = stats.norm.logpdf(read_k, k, 0.3) + stats.norm.logpdf(read_b, b, 0.3 * math.exp(-k))
        return after - stats.norm.logpdf(read_k, 0, 0.3) - stats.norm.logpdf(read_b, 0, 0.3)

    kept = (ratios(perturbation.transform(x, numbers(k, b))) <= np.quantile(ratios(x), tau)).mean()
    assert kept == pytest.approx(worst_after(perturbation, k, b, tau), abs=4 * count**-0.5)


def test_a_set_of_cells_is_not_worse_than_the_bound():
    # A model that knows the cell of a grid alone: sets of cells are sets, and fine ones come near.
    edges = np.linspace(-8, 8, 801)
    for k, n, sigma_k in ((0.2, 1.0, 0.3), (-0.2, 1.0, 0.3), (-0.5, 0.3, 1.0), (0.05, 2.0, 1.0)):
        m, s = k / sigma_k, math.exp(-k)

        def masses(mean, scale):
            return np.diff(ndtr((edges - mean) / scale)) + 1e-300

        before = np.outer(masses(0, 1), masses(0, 1)).ravel()
        after = np.outer(masses(m, 1), masses(n, s)).ravel()
        order = np.argsort(after / before)
        share, kept = np.cumsum(before[order]), np.cumsum(after[order])
        for tau in (0.6, 0.9, 0.999):
            (bound,), _ = least_kept(tau, abs(m), n, k)
            found = np.interp(tau, share, kept)
            assert bound <= found <= bound + 3e-4


@pytest.mark.parametrize('k', [-0.7, -0.05, 0.01, 0.4])
@pytest.mark.parametrize('tau', [0.6, 0.99, 1 - 1e-8])
def test_the_error_of_the_quadrature_is_below_its_margin(k, tau):
    # The integral on a rule that is five times as fine and reaches farther, for the same level.
    for m in (0.05, 0.3, 1.5):
        for n in (0.0, 0.4, 2.0):
            s = math.exp(-k)
            (bound,), (level,) = least_kept(tau, m, n, k)
            m_used = max(m, n * s / STEEPEST, abs(1 - s * s) / MOST_CURVED)
            w = np.linspace(-12, 12, 60001)
            t = (level - (n + s * w) ** 2 / 2 + w**2 / 2) / m_used
            both = ndtr(t - m_used) + np.exp(m_used * t - m_used**2 / 2 + log_ndtr(-t))
            exact = (stats.norm.pdf(w) * both).sum() * (w[1] - w[0])
            exact -= math.exp(level - m_used**2 / 2) / s * (1 - tau)
            assert 0.5 * MARGIN <= exact - bound <= 1.5 * MARGIN


def test_the_worst_case_of_brightness_alone_is_exact():
    perturbation = BrightnessContrast(0.3, 0.3)
    for tau, target in ((0.75, 0.5), (0.99, 0.5), (0.99, 0.8)):
        allowed = perturbation.allowed_brightness(tau, 0.0, target)
        assert ndtr(ndtri(tau) - allowed / 0.3) == pytest.approx(target)
        assert perturbation.radius(tau, target) == allowed


def test_a_tau_too_small_for_the_contrasts_certifies_nothing_and_says_so():
    assert not BOX.covers(0.6) and BOX.radius(0.6) == 0
    assert BOX.allowed_brightness(0.6, math.log(1.2)) is None
    assert BOX.allowed_brightness(0.6, 0.0) > 0
    guarantee = BOX.guarantee(0.6)
    assert 'nothing but the image itself is certified' in guarantee.describe()
    assert 'the image itself' in guarantee.attack_set
    assert guarantee.extra['certified_contrast'] == [1.0, 1.0]
    assert not guarantee.extra['covers_contrast_range']
    extra = BOX.guarantee(0.99).extra
    assert extra['covers_contrast_range'] and extra['certified_contrast'] == [0.8, 1.2]
    bounds = [entry['largest_b'] for entry in extra['brightness_at_contrast']]
    assert 0.999 * min(bounds) == pytest.approx(BOX.radius(0.99), rel=1e-12)
    assert bounds[1] == pytest.approx(0.3 * ndtri(0.99))


@pytest.mark.parametrize('sigma', [0.4, 2.0, 6.0])
def test_the_worst_set_of_rounded_shifts_keeps_its_class_at_the_radius(sigma):
    # Neyman-Pearson on whole numbers: rounding can only hide the attack.
    steps = np.arange(-80, 81)

    def probabilities(xi):
        return ndtr((steps - xi + 0.5) / sigma) - ndtr((steps - xi - 0.5) / sigma)

    for xi in (1, 2, 5, 9):
        before, after = probabilities(0), probabilities(xi)
        # The ratio grows with the step.
        for tau in (0.6, 0.9, 0.99, 0.999):
            least = np.interp(tau, [0, *np.cumsum(before)], [0, *np.cumsum(after)])
            assert least >= ndtr(ndtri(tau) - xi / sigma) - 1e-9
            if sigma == 6.0:
                assert least <= ndtr(ndtri(tau) - xi / sigma) + 0.01


# Attacks on base models that are known in closed form


@pytest.mark.parametrize('tau', [0.6, 0.95])
def test_the_worst_base_model_loses_its_class_at_the_radius_of_a_blur(blur, tau):
    # The base model reads the variance from a wave, and gives its class below the quantile of tau.
    law = {'Exponential': stats.expon(0, 4), 'Uniform': stats.uniform(0, 12)}.get(
        blur.law.spec()['type'], stats.halfnorm(0, 6)
    )
    omega = frequencies(16, torch.zeros((), dtype=torch.float64))[2]
    wave = 0.5 + 0.4 * (omega * (torch.arange(16) + 0.5)).cos().expand(1, 4, 16)
    draws = law.ppf((np.arange(200) + 0.5) / 200)
    radius = blur.radius(tau)

    def probability(xi):
        attacked = blur.transform(wave, numbers(xi))
        seen = torch.stack([blur.transform(attacked, numbers(a))[0, 0, 0] for a in draws])
        read = -2 / omega**2 * ((seen - 0.5) / (wave[0, 0, 0] - 0.5)).log()
        return (read.numpy() < law.ppf(tau)).mean()

    assert probability(0.0) == pytest.approx(tau, abs=0.006)
    assert probability(0.5 * radius) > 0.51
    assert probability(0.93 * radius) > 0.5
    assert probability(1.07 * radius) < 0.5


@pytest.mark.parametrize('tau', [0.6, 0.95])
def test_the_worst_base_model_loses_its_class_at_the_radius_of_a_shift(tau):
    # The base model finds the one bright pixel, and gives its class if it is not too far down the
    # diagonal.
    shift = CyclicTranslation(6.0)
    x = torch.zeros(1, 80, 80)
    x[0, 40, 40] = 1
    draws = shift.draw(x, [generator(seed) for seed in range(1500)])
    direction = numbers(0.6, 0.8)

    def probability(xi):
        attacked = shift.transform(x, xi)
        inside = 0
        for theta in draws:
            position = shift.transform(attacked, theta)[0].argmax()
            read = numbers(position // 80 - 40, position % 80 - 40)
            inside += (read @ direction / 6 < ndtri(tau)).item()
        return inside / len(draws)

    error = 4 * 0.5 / 1500**0.5
    assert probability(numbers(0, 0)) == pytest.approx(tau, abs=error)
    xi = (shift.radius(tau) * direction).floor()
    assert torch.linalg.vector_norm(xi) <= shift.radius(tau)
    size = (xi @ direction).item() / 6
    assert probability(xi) == pytest.approx(ndtr(ndtri(tau) - size), abs=error)
    assert probability(2 * xi + 1) < 0.5


# End to end: no certified component may lose its majority at the edge of the attack set


def votes_of(segment, x, perturbation, seed, n=300):
    return collect_votes(
        segment,
        x,
        perturbation,
        SamplingSettings(n0=10, n=n, num_classes=2, seed=seed, batch_size=50),
    )


def check_certified(votes, tau, attacked, share):
    """Checks certificates against the exact probability of class 1 after each attack.

    Args:
        votes (Votes): Of a base model with classes 0 and 1.
        tau (float): Probability threshold.
        attacked (list[np.ndarray]): Probability of class 1 of each component after each attack.
        share (float): What share of the components is to be certified at least.
    """
    certified = certify(votes, tau=tau, alpha=1e-3).certified
    for probability in attacked:
        of_guess = np.where(votes.guess == 1, probability, 1 - probability)
        assert (of_guess[certified] > 0.5).all()
    assert certified.mean() >= share
    assert len({*votes.guess[certified].tolist()}) == 2


@pytest.mark.parametrize('tau', [0.75, 0.9])
def test_no_certificate_of_laplace_noise_exceeds_the_true_distance(tau):
    noise = LaplaceNoise(0.1)
    x = torch.linspace(0, 1, 180).reshape(1, 10, 18)
    radius = noise.radius(tau)
    for seed in range(3):
        votes = votes_of(
            lambda batch: torch.stack([item[0] > 0.5 for item in batch]), x, noise, seed
        )
        margin = (x[0].double().numpy() - 0.5) / 0.1
        shifts = [margin + side * radius / 0.1 for side in (-1, 1)]
        check_certified(votes, tau, [stats.laplace.cdf(shift) for shift in shifts], 0.3)


@pytest.mark.parametrize('tau', [0.75, 0.9])
def test_no_certificate_of_blur_exceeds_the_true_variance(blur, tau):
    # Component i has class 1 while the wave is above its threshold: up to a known variance.
    law = {'Exponential': stats.expon(0, 4), 'Uniform': stats.uniform(0, 12)}.get(
        blur.law.spec()['type'], stats.halfnorm(0, 6)
    )
    omega = 2 * math.pi / 16
    wave = 0.5 + 0.4 * (omega * (torch.arange(16) + 0.5)).cos().expand(1, 12, 16)
    limits = torch.logspace(-2, 1.5, 12 * 16).reshape(12, 16)
    thresholds = 0.5 + (wave[0] - 0.5) * (-limits * omega**2 / 2).exp()
    above = wave[0] > 0.5

    def segment(batch):
        return torch.stack([(item[0] > thresholds) == above for item in batch])

    radius = blur.radius(tau)
    for seed in range(3):
        votes = votes_of(segment, wave, blur, seed)
        attacked = [law.cdf(limits.numpy() - xi) for xi in (0.0, radius / 2, radius)]
        check_certified(votes, tau, attacked, 0.2)


@pytest.mark.parametrize('tau', [0.85, 0.9])
def test_no_certificate_of_brightness_and_contrast_exceeds_the_box(tau):
    # Class 1 is brighter than 0.5: e^(k + k') (x + b + e^-k b') > 0.5 under the attack (k, b).
    perturbation = BrightnessContrast(0.3, 0.3, (0.9, 1.1))
    x = torch.linspace(-2, 3, 200, dtype=torch.float64).reshape(1, 10, 20)
    draws = 0.3 * NODES[::5]

    def probability(k, b):
        needed = 0.5 * np.exp(-draws - k)[:, None] - b - x.numpy().ravel()
        weights = WEIGHTS[::5] / WEIGHTS[::5].sum()
        return (weights @ ndtr(-needed * math.exp(k) / 0.3)).reshape(10, 20)

    radius = perturbation.radius(tau)
    attacked = [
        probability(math.log(contrast), side * radius)
        for contrast in (0.9, 1.0, 1.1)
        for side in (-1, 0, 1)
    ]
    assert radius > 0
    for seed in range(3):
        votes = votes_of(
            lambda batch: torch.stack([item[0] > 0.5 for item in batch]), x, perturbation, seed
        )
        if seed == 0:
            clean = probability(0.0, 0.0)
            assert np.abs(votes.hits / 300 - np.maximum(clean, 1 - clean)).max() < 0.15
        check_certified(votes, tau, attacked, 0.1)


def votes_in_the_frame_of_the_content(segment, x, perturbation, seed, n0=10, n=300):
    """Votes for a perturbation that moves the labels: each map is moved back, then counted."""
    digest = input_digest(x)

    def maps(stage, count):
        for index in range(count):
            source = generator(draw_seed(seed, digest, stage, index))
            theta = perturbation.draw(x, [source])
            labels = segment(perturbation.transform(x, theta[0]))
            yield perturbation.map_labels(labels[None], theta)[0]

    guess = (torch.stack([*maps(SELECTION, n0)]).double().mean(0) > 0.5).long()
    hits = sum((labels == guess).long() for labels in maps(ESTIMATION, n))
    return Votes(guess=guess.numpy(), hits=hits.numpy(), n=n, n0=n0)


@pytest.mark.parametrize('tau', [0.75, 0.9])
def test_no_certificate_of_shifts_exceeds_the_true_distance(tau):
    # A base model that is blind to the content: class 1 in the left half. The content at column c
    # has class 1 while it stays there.
    perturbation, size = CyclicTranslation(3.0), 48
    x = image(1, 8, size)
    columns = np.arange(size)

    def probability(dx):
        # The content at column c is attacked to c + dx, and smoothed from there.
        steps = np.arange(-40, 41)
        weights = ndtr((steps + 0.5) / 3) - ndtr((steps - 0.5) / 3)
        left = (columns[:, None] + dx + steps) % size < size // 2
        return np.broadcast_to(left @ weights, (8, size))

    radius = math.floor(perturbation.radius(tau))
    assert radius >= 2
    attacked = [probability(dx) for dx in range(-radius, radius + 1)]
    halves = (torch.arange(size) < size // 2).long().expand(8, size)
    for seed in range(3):
        votes = votes_in_the_frame_of_the_content(lambda _: halves, x, perturbation, seed)
        check_certified(votes, tau, attacked, 0.4)


def test_an_equivariant_base_model_is_certified_everywhere_in_the_frame_of_the_content():
    x = image(1, 12, 12)
    votes = votes_in_the_frame_of_the_content(lambda y: (y[0] > 0.5).long(), x, SHIFT, 0, n=100)
    assert (votes.hits == 100).all()
    assert np.array_equal(votes.guess, (x[0] > 0.5).numpy())
    # After an attack, the class of the content at v is found at v + xi.
    xi = numbers(2, -3)
    attacked = votes_in_the_frame_of_the_content(
        lambda y: (y[0] > 0.5).long(), SHIFT.transform(x, xi), SHIFT, 0, n=100
    )
    assert np.array_equal(attacked.guess, np.roll(votes.guess, (2, -3), (0, 1)))


@pytest.mark.parametrize('batch_size', [1, 7])
def test_the_sampler_counts_in_the_frame_of_the_content(batch_size):
    x = image(1, 8, 16)

    def bright(item):
        return (item[0] > 0.5).long()

    def position(item):
        return (torch.arange(16) < 8).long().expand(8, 16)

    for segment in (bright, position):
        expected = votes_in_the_frame_of_the_content(segment, x, SHIFT, 0, n=60)
        found = collect_votes(
            lambda batch, one=segment: torch.stack([one(item) for item in batch]),
            x,
            SHIFT,
            SamplingSettings(n0=10, n=60, num_classes=2, batch_size=batch_size),
        )
        assert np.array_equal(found.guess, expected.guess)
        assert np.array_equal(found.hits, expected.hits)
        # A model of the content alone agrees with itself in every draw.
        assert (found.hits == 60).all() == (segment is bright)


def test_label_maps_of_another_size_cannot_be_moved_back():
    with pytest.raises(SegmentorOutputError, match='must have the size of the image'):
        collect_votes(
            lambda batch: torch.zeros(len(batch), 4, 4, dtype=torch.long),
            image(1, 8, 16),
            SHIFT,
            SamplingSettings(n0=2, n=4, num_classes=2),
        )


# Statements, specs, bad inputs


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LaplaceNoise(0), 'b must be positive, got 0'),
        (lambda: LaplaceNoise(51.0), r'0-255 units.*b=0\.2\?'),
        (lambda: GaussianBlur(Gaussian(1.0)), r'never negative.*Exponential.*got N\(0, 1\^2\)'),
        (lambda: GaussianBlur(Uniform(4.0)), 'one_sided=True'),
        (lambda: GaussianBlur(2.0), 'a law is needed'),
        (lambda: GaussianBlur({'type': 'Poisson'}), "unknown law 'Poisson'"),
        (lambda: BrightnessContrast(0, 0.1), 'sigma_k must be positive'),
        (lambda: BrightnessContrast(0.1, math.nan), 'sigma_b must be a finite number'),
        (lambda: BrightnessContrast(0.1, 25.5), r'0-255 units.*sigma_b=0\.1\?'),
        (lambda: BrightnessContrast(0.1, 0.1, (1.1, 1.2)), 'low <= 1 <= high'),
        (lambda: BrightnessContrast(0.1, 0.1, (-0.1, 1.2)), 'contrast_range must be positive'),
        (lambda: BrightnessContrast(0.1, 0.1, 1.2), 'two factors'),
        (lambda: BrightnessContrast(0.1, 0.1, (0.9, 1.0, 1.1)), 'two factors'),
        (lambda: CyclicTranslation(-1.0), 'sigma must be positive, got -1.0'),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_attacked_images_are_images_too(transformation):
    source = generator(3)
    # A blur of little variance overshoots at edges; brightness and contrast go farther.
    x = (image(3, 12, 16) > 0.5).float()
    for _ in range(20):
        attacked = transformation.transform(x, transformation.draw(x, [source])[0])
        transformation.check(attacked)
        transformation.sample(attacked, source)
    if transformation in BLURS:
        sharp = transformation.transform(x, numbers(0.2))
        assert sharp.min() < -0.002 or sharp.max() > 1.002


def test_noise_takes_images_from_anywhere_in_its_ball():
    x = image()
    x[0, 0, 0] += LaplaceNoise(0.2).radius(0.999)
    LaplaceNoise(0.2).check(x)


def test_parameters_outside_the_family_are_refused(transformation):
    count = transformation.num_parameters
    with pytest.raises(ValueError, match=rf'shape \({count},\), got \(3,\)'):
        transformation.transform(image(), torch.zeros(3))
    with pytest.raises(ValueError, match='must be finite'):
        transformation.transform(image(), torch.full((count,), math.nan))
    with pytest.raises(ValueError, match='an image, shape'):
        transformation.transform(image(4, 5), torch.zeros(count))
    # What an attack has moved out of [0, 1] is still an image.
    assert transformation.transform(2 * image() - 1, torch.zeros(count)).min() < 0
    with pytest.raises(ValueError, match=r'never negative, got -0\.5'):
        BLURS[0].transform(image(), numbers(-0.5))
    with pytest.raises(ValueError, match='whole pixels'):
        SHIFT.transform(image(), numbers(0.5, 1))
    with pytest.raises(ValueError, match='whole pixels'):
        SHIFT.map_labels(torch.zeros(1, 4, 5), numbers(1, 0.5)[None])
