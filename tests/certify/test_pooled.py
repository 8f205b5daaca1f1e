"""Pooled tests: exact tails, p-values under every null hypothesis, scores."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy import stats

from mmcert.certify import Votes, certify
from mmcert.certify.pooled import (
    LARGEST_WEIGHT,
    best_design,
    score_table,
    scores,
    weighted_tail,
    weights_for,
)


def exact_tail(probabilities, draws, weights):
    """By looking at every outcome, in fractions."""
    parts = [
        [
            (w * k, stats_binomial(n, k, q))
            for k in range(n + 1)
        ]
        for q, n, w in zip(probabilities, draws, weights, strict=True)
    ]  # fmt: skip
    total = sum(n * w for n, w in zip(draws, weights, strict=True))
    mass = [Fraction(0)] * (total + 1)
    for outcome in product(*parts):
        probability = Fraction(1)
        for _, p in outcome:
            probability *= p
        mass[sum(value for value, _ in outcome)] += probability
    return [sum(mass[t:]) for t in range(total + 1)]


def stats_binomial(n, k, q):
    ways = Fraction(1)
    for i in range(k):
        ways = ways * (n - i) / (i + 1)
    return ways * q**k * (1 - q) ** (n - k)


CASES = [
    ([Fraction(1, 2)], [5], [1]),
    ([Fraction(1, 2), Fraction(3, 4)], [3, 4], [2, 1]),
    ([Fraction(9, 16), Fraction(7, 8), Fraction(1, 1)], [3, 2, 2], [3, 2, 1]),
    ([Fraction(5, 8), Fraction(3, 4), Fraction(15, 16)], [2, 0, 3], [4, 1, 0]),
]


@pytest.mark.parametrize(('probabilities', 'draws', 'weights'), CASES)
def test_tails_are_exact_and_rounded_up(probabilities, draws, weights):
    exact = exact_tail(probabilities, draws, weights)
    found = weighted_tail([float(q) for q in probabilities], draws, weights)
    assert len(found) == len(exact)
    for ours, true in zip(found, exact, strict=True):
        assert true <= Fraction(float(ours)) <= true * (1 + Fraction(1, 10**9))


def test_one_centre_is_the_binomial_test_down_to_tiny_tails():
    for n, q in ((120, 0.8), (1000, 0.55), (30, 0.999)):
        found = weighted_tail([q], [n], [1])
        np.testing.assert_allclose(found, stats.binom.sf(np.arange(n + 1) - 1, n, q), rtol=1e-9)
    assert weighted_tail([0.5] * 20, [50] * 20, [3] * 20)[-1] == pytest.approx(2.0**-1000, rel=1e-9)


@pytest.mark.parametrize('smaller', [0.0, 0.1, 0.3])
def test_no_null_hypothesis_gives_small_p_values_too_often(smaller):
    """Whatever the draws hit with, up to the q_j: P[p-value <= t] <= t for all attainable t."""
    q, n, w = np.array([0.55, 0.7, 0.9]), np.array([4, 5, 3]), np.array([3, 2, 1])
    table = weighted_tail(q, n, w)
    for shift in product((0.0, smaller), repeat=3):
        p = np.maximum(q - np.array(shift), 0)
        mass = -np.diff(np.append(weighted_tail(p, n, w), 0.0))
        for t in np.unique(table):
            assert mass[table <= t].sum() <= t * (1 + 1e-8)


def test_weights_follow_the_likelihood_ratio():
    q = np.array([0.5, 0.6, 0.8, 0.95, 1.0])
    weights = weights_for(q, 0.9)
    assert weights.tolist() == [LARGEST_WEIGHT, 3, 1, 0, 0]
    assert weights_for(np.array([0.95, 1.0]), 0.9).tolist() == [0, 0]


def test_pooling_asks_for_less_than_one_centre():
    """The figures of 20 standard deviations of path, 1,100 draws, 43,200 components."""
    half, level = 20 / 137 / 2, 1e-3 / 43_200
    q = stats.norm.cdf(half * (1 + 2 * np.abs(np.arange(-40, 41))))
    design, needed = best_design([(q, np.full(81, 8))], level)
    assert 0.9 < design < 0.99 and 0.92 < needed < 0.97
    alone, impossible = best_design([(q[40:41], np.array([8]))], level)
    assert impossible > 1 and 0 < alone < 1


def test_scores_round_p_values_up():
    table = score_table(1e-12, 200)
    assert table[0] == 1 and table[-1] == pytest.approx(1e-12)
    p = 10.0 ** -np.random.default_rng(0).uniform(0, 15, 1000)
    found = scores(p, table)
    assert (table[found] >= p).all()
    inside = found < 200
    assert (table[found[inside] + 1] < p[inside]).all()
    assert scores(np.array([1.0, 0.0]), table).tolist() == [0, 200]
    assert score_table(0.0, 10)[-1] == pytest.approx(1e-40)


def votes_of(score, n=200, smallest=1e-12, **arguments):
    score = np.asarray(score)
    table = score_table(smallest, n)
    return Votes(np.zeros_like(score), score, n, 10, table=table, **arguments)


def test_certificates_compare_the_p_values_of_scores_with_critical_values():
    n, alpha = 200, 1e-3
    table = score_table(1e-12, n)
    score = np.random.default_rng(1).integers(0, n + 1, 50)
    found = certify(votes_of(score), tau=0.5, alpha=alpha, procedure='bonferroni')
    np.testing.assert_array_equal(found.certified, table[score] <= alpha / 50)
    holm = certify(votes_of(score), tau=0.5, alpha=alpha, procedure='holm').certified
    rejected = 0
    for rank, p in enumerate(np.sort(table[score])):
        if p > alpha / (50 - rank):
            break
        rejected += 1
    assert holm.sum() == rejected > found.certified.sum() - 1
    assert found.to_dict()['tau'] == 0.5 and found.selection == 'holdout'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(selection_hits=np.zeros(2, int)), 'no looks, groups or selection hits'),
        (dict(looks=(200,)), 'no looks, groups or selection hits'),
        (dict(table=np.empty(0)), 'fall from 1'),
        (dict(table=np.linspace(0, 1, 201)), 'fall from 1'),
        (dict(table=np.full(201, 0.5)), 'fall from 1'),
    ],
)
def test_votes_that_cannot_be_scores_are_refused(arguments, message):
    given = {'table': score_table(1e-12, 200), **arguments}
    with pytest.raises(ValueError, match=message):
        Votes(np.zeros(2, int), np.ones(2, int), 200, 10, **given)


def test_scores_answer_for_a_half_alone():
    with pytest.raises(ValueError, match='tau=0.5 alone, got 0.75'):
        certify(votes_of([3, 200]), tau=0.75, alpha=1e-3)
