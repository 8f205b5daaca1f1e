"""Distributions of parameters: their draws, and their radii against Neyman-Pearson worst cases."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from mmcert.perturbations import (
    DISTRIBUTIONS,
    Exponential,
    FoldedNormal,
    Gaussian,
    Laplace,
    Uniform,
    build_distribution,
)

# Each law with SciPy's own version of it.
KNOWN = [
    (Gaussian(0.5), stats.norm(0, 0.5)),
    (Laplace(0.7), stats.laplace(0, 0.7)),
    (Exponential(4.0), stats.expon(0, 4.0)),
    (Uniform(3.0), stats.uniform(-1.5, 3.0)),
    (Uniform(3.0, one_sided=True), stats.uniform(0, 3.0)),
    (FoldedNormal(2.0), stats.halfnorm(0, 2.0)),
]
IDS = [law.describe() for law, _ in KNOWN]


@pytest.fixture(params=KNOWN, ids=IDS)
def known(request):
    return request.param


def least_probability(before, after, tau):
    """Neyman-Pearson: least probability after the attack of a (randomised) set of probability tau.

    Args:
        before (np.ndarray): Probabilities of cells before the attack.
        after (np.ndarray): Probabilities of the same cells after it.
        tau (float): Probability of the set before the attack.
    """
    before, after = before.ravel(), after.ravel()
    keep = before > 0
    before, after = before[keep], after[keep]
    order = np.argsort(after / before, kind='stable')
    return np.interp(tau, np.cumsum(before[order]), np.cumsum(after[order]))


def cells(law, xi, count=20_000):
    """Probabilities of fine cells under a law of SciPy and under the same law shifted by xi."""
    low, high = law.ppf(1e-9), law.ppf(1 - 1e-9)
    edges = np.union1d(np.linspace(low, high + abs(xi), count), [low + xi, high, high + xi, 0, xi])
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    return np.diff(law.cdf(edges)), np.diff(law.cdf(edges - xi))


@pytest.mark.parametrize('tau', [0.6, 0.9, 0.99])
@pytest.mark.parametrize('target', [0.5, 0.55, 0.8])
def test_the_least_probability_meets_the_target_at_the_radius(known, tau, target):
    law, oracle = known
    radius = law.radius(tau, target)
    if tau <= target:
        assert radius == 0
        return
    assert least_probability(*cells(oracle, radius), tau) == pytest.approx(target, abs=1e-4)
    assert least_probability(*cells(oracle, 1.03 * radius), tau) < target
    for part in (0.25, 0.5, 0.97):
        assert least_probability(*cells(oracle, part * radius), tau) > target
    if not law.one_sided:
        assert least_probability(*cells(oracle, -radius), tau) == pytest.approx(target, abs=1e-4)


@pytest.mark.parametrize('tau', [0.75, 0.95])
@pytest.mark.parametrize('target', [0.5, 0.7])
@pytest.mark.parametrize(
    ('law', 'oracle', 'order'),
    [
        (Gaussian(0.5), KNOWN[0][1], 2),
        (Laplace(0.7), KNOWN[1][1], 1),
        (Exponential(4.0), KNOWN[2][1], 1),
    ],
)
def test_several_entries_share_the_radius_in_the_norm_of_the_law(law, oracle, order, tau, target):
    # Cells of a grid are sets, so what they give is never below the true least probability.
    radius = law.radius(tau, target)
    for direction in ([1, 0], [0.3, 0.7], [1, 1]):
        xi = radius * np.array(direction) / np.linalg.norm(direction, ord=order)
        (before_1, after_1), (before_2, after_2) = (cells(oracle, entry, 400) for entry in xi)
        found = least_probability(np.outer(before_1, before_2), np.outer(after_1, after_2), tau)
        assert target - 1e-6 <= found
        if direction == [1, 0]:
            assert found == pytest.approx(target, abs=0.003)


def test_radii_match_the_vectors(vectors):
    classes = {
        'gaussian': Gaussian,
        'laplace': Laplace,
        'exponential': Exponential,
        'uniform': Uniform,
        'folded_gaussian': FoldedNormal,
    }
    for vector in vectors['A_radius']:
        inputs, expected = vector['inputs'], vector['expected']
        law = classes[inputs['distribution']](inputs['scale'])
        assert law.radius(inputs['tau']) == pytest.approx(expected['R'], rel=1e-9)
    assert {vector['inputs']['distribution'] for vector in vectors['A_radius']} == set(classes)


def test_closed_forms(known):
    law, oracle = known
    for tau, target in ((0.5, 0.5), (0.6, 0.7), (0.7, 0.7)):
        assert law.radius(tau, target) == 0
    for tau in (0.6, 0.9, 0.999):
        radius = law.radius(tau)
        if isinstance(law, (Gaussian, Laplace)):  # From the quantile of tau down to the median.
            assert radius == pytest.approx(oracle.ppf(tau))
        elif isinstance(law, FoldedNormal):
            assert radius == pytest.approx(oracle.ppf(tau) - oracle.ppf(0.5))
        elif isinstance(law, Exponential):
            assert radius == pytest.approx(-4 * math.log(2 - 2 * tau))
        else:
            assert radius == pytest.approx(3 * (tau - 0.5))
        assert law.radius(tau, 0.55) < radius < law.radius((1 + tau) / 2)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_draws_have_their_law(known, dtype):
    law, oracle = known
    draws = law.fill(torch.empty(40, 500, dtype=dtype), torch.Generator().manual_seed(3))
    assert draws.shape == (40, 500) and draws.dtype == dtype
    assert stats.kstest(draws.double().flatten().numpy(), oracle.cdf).pvalue > 1e-4
    # Entries side by side are independent.
    ranks = oracle.cdf(draws.double().numpy())
    assert abs(np.corrcoef(ranks[:, :-1].ravel(), ranks[:, 1:].ravel())[0, 1]) < 5 / 20000**0.5
    batch = torch.empty(2, 40, 500, dtype=dtype)
    sources = [torch.Generator().manual_seed(seed) for seed in (4, 3)]
    assert law.fill_batch(batch, sources) is batch and torch.equal(batch[1], draws)
    sources = [torch.Generator().manual_seed(seed) for seed in (4, 3)]
    scaled = law.fill_batch(torch.empty_like(batch), sources, 8.0, 0.5)
    torch.testing.assert_close(scaled, 8 * batch + 0.5)
    assert not law.one_sided or draws.min() >= 0


def test_specs_rebuild_the_law(known):
    law, _ = known
    spec = law.spec()
    assert json.loads(json.dumps(spec)) == spec
    assert build_distribution(spec) == law and build_distribution(law) is law
    assert eval(repr(law)) == law
    with pytest.raises(AttributeError):
        law.sigma = 2.0


def test_every_law_is_tested_here():
    assert {type(law) for law, _ in KNOWN} == set(DISTRIBUTIONS.values())


@pytest.mark.parametrize('cls', DISTRIBUTIONS.values())
@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (0, 'must be positive, got 0'),
        (-1.0, 'must be positive, got -1.0'),
        (math.nan, 'finite number, got nan'),
        (math.inf, 'finite number, got inf'),
        ('1', "finite number, got '1'"),
        (True, 'finite number, got True'),
    ],
)
def test_impossible_scales_are_refused(cls, value, message):
    with pytest.raises(ValueError, match=message):
        cls(value)


def test_impossible_laws_are_refused():
    with pytest.raises(ValueError, match='one_sided must be True or False, got 1'):
        Uniform(1.0, 1)
    with pytest.raises(ValueError, match=r"unknown law 'Cauchy'; known: Exponential, .*Uniform"):
        build_distribution({'type': 'Cauchy', 'scale': 1.0})
    with pytest.raises(ValueError, match='Exponential: .*sigma'):
        build_distribution({'type': 'Exponential', 'sigma': 1.0})
    with pytest.raises(ValueError, match='a law is needed'):
        build_distribution(4.0)
    for bad in (0.3, 1.0, '0.75'):
        with pytest.raises(ValueError, match='tau'):
            Gaussian(1.0).radius(bad)
        with pytest.raises(ValueError, match='tau'):
            Gaussian(1.0).radius(0.75, bad)
