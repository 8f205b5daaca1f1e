from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmcert.certify import binomial
from mmcert.certify.checks import check_hits


def exact_tail(k, n, tau):
    """P[Bin(n, tau) >= k] by a sum of rational numbers."""
    p = Fraction(tau)
    return float(sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1)))


def p_values(hits, n, tau):
    return binomial.p_value_table(n, tau, 'holdout')[check_hits(hits, n)]


@pytest.mark.parametrize('n', [1, 7, 100])
@pytest.mark.parametrize('tau', [0.5, 0.75, 0.953125])
def test_p_values_equal_exact_rational_sums(n, tau):
    hits = np.arange(n + 1)
    expected = [exact_tail(k, n, tau) for k in hits]
    np.testing.assert_allclose(p_values(hits, n, tau), expected, rtol=1e-11)


def test_p_value_of_no_hits_is_one():
    assert p_values(np.array([0]), 50, 0.75)[0] == 1.0


@given(st.integers(1, 300), st.floats(0.5, 0.999))
def test_p_values_fall_with_hits(n, tau):
    assert (np.diff(p_values(np.arange(n + 1), n, tau)) <= 0).all()


@given(st.integers(1, 200), st.data())
def test_p_values_rise_with_tau(n, data):
    hits = data.draw(st.integers(0, n))
    low, high = sorted(data.draw(st.tuples(st.floats(0.5, 0.99), st.floats(0.5, 0.99))))
    hits = np.array([hits])
    assert p_values(hits, n, low) <= p_values(hits, n, high) * (1 + 1e-12)


def test_p_values_match_the_vectors(vectors):
    for vector in vectors['B_pvalue']:
        n, count, tau = (vector['inputs'][key] for key in ('n', 'count', 'tau'))
        found = p_values(np.array([count]), n, tau)[0]
        assert found == pytest.approx(vector['expected']['p'], rel=1e-9)


def test_the_smallest_hits_that_attain_a_level_match_the_vectors(vectors):
    for vector in vectors['B_mincount']:
        n, tau, level = (vector['inputs'][key] for key in ('n', 'tau', 'level'))
        hits = int(np.count_nonzero(binomial.p_value_table(n, tau, 'holdout') > level))
        assert (hits if hits <= n else None) == vector['expected']['min_count']


def test_clopper_pearson_matches_the_vectors(vectors):
    for vector in vectors['B_clopper_pearson']:
        inputs = vector['inputs']
        found = binomial.clopper_pearson_table(inputs['n'], inputs['alpha'])[inputs['count']]
        assert found == pytest.approx(vector['expected']['lower'], rel=1e-9)


def test_clopper_pearson_agrees_with_scipy():
    for k in range(21):
        interval = stats.binomtest(k, 20, alternative='greater').proportion_ci(0.99, 'exact')
        assert binomial.clopper_pearson_table(20, 0.01)[k] == pytest.approx(interval.low, abs=1e-12)


@given(st.integers(1, 150), st.floats(1e-6, 0.4), st.floats(0.5, 0.99), st.data())
def test_clopper_pearson_exceeds_tau_where_the_test_rejects(n, alpha, tau, data):
    hits = np.array([data.draw(st.integers(0, n))])
    p = p_values(hits, n, tau)[0]
    bound = binomial.clopper_pearson_table(n, alpha)[hits[0]]
    if abs(p - alpha) > 1e-9 * alpha:
        assert (bound > tau) == (p < alpha)


@pytest.mark.parametrize('n', [1, 7, 110, 5000])
@pytest.mark.parametrize('p', [1e-12, 0.25, 0.5, 0.75, 1 - 1e-12])
def test_tails_and_bounds_are_those_of_scipys_distributions(n, p):
    hits = np.arange(-1, n + 2)
    np.testing.assert_array_equal(binomial.upper_tail(hits, n, p), stats.binom.sf(hits - 1, n, p))
    for alpha in (0.05, 1e-3, 1e-9):
        bounds = stats.beta.ppf(alpha, hits[2:-1], n - hits[2:-1] + 1)
        np.testing.assert_array_equal(binomial.clopper_pearson_table(n, alpha)[1:], bounds)


@pytest.mark.parametrize('level', [1e-100, 1e-200, 1e-290, 1e-307])
def test_bounds_at_tiny_levels_are_bounds(level):
    # P[Bin(n, bound) >= k] must not exceed the level.
    table = binomial.clopper_pearson_table(100, level)
    assert (np.diff(table[6:]) >= 0).all() and (table >= 0).all()
    k = np.flatnonzero(table > 0)
    assert (binomial.upper_tail(k, 100, table[k]) <= level * (1 + 1e-9)).all()


def test_shape_is_kept_and_nothing_is_fine():
    assert p_values(np.zeros((3, 4), dtype=int), 5, 0.5).shape == (3, 4)
    assert p_values(np.zeros((0,)), 5, 0.5).shape == (0,)


@pytest.mark.parametrize(
    ('hits', 'n', 'tau', 'message'),
    [
        ([3], 2, 0.75, r'\[0, 2\], got 3'),
        ([-1], 2, 0.75, 'got -1'),
        ([1.5], 2, 0.75, 'integers'),
        ([1], 0, 0.75, 'at least 1, got 0'),
        ([1], 2.5, 0.75, 'integer, got 2.5'),
        ([1], 2, 0.49, r'\[0.5, 1\), got 0.49'),
        ([1], 2, 1.0, 'got 1.0'),
        ([1], 2, float('nan'), 'got nan'),
    ],
)
def test_bad_values_are_named(hits, n, tau, message):
    with pytest.raises(ValueError, match=message):
        p_values(np.array(hits), n, tau)


@pytest.mark.parametrize('alpha', [0, 1, -0.1, float('nan'), 'x'])
def test_bad_alpha_is_named(alpha):
    with pytest.raises(ValueError, match='alpha'):
        binomial.clopper_pearson_table(2, alpha)
