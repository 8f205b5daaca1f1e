import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri
from statsmodels.stats.proportion import proportion_confint

from mmcert.certify import Votes, certify, joint_bounds, joint_radii
from mmcert.certify.binomial import clopper_pearson_table
from mmcert.votes import VotesRecord
from mmcert.votes.recertify import Task, radius_curve


def votes(hits, n=100, n0=10, selection_hits=None, guess=None):
    hits = np.asarray(hits)
    guess = np.zeros(hits.shape, dtype=int) if guess is None else np.asarray(guess)
    return Votes(guess, hits, n, n0, selection_hits)


def radius(tau):
    return 0.25 * float(ndtri(tau))


def test_lower_bounds_agree_with_statsmodels():
    table = clopper_pearson_table(40, 1e-4)
    expected = [proportion_confint(k, 40, 2e-4, method='beta')[0] for k in range(41)]
    np.testing.assert_allclose(table, expected, atol=1e-12)


def test_a_radius_exceeds_that_of_tau_exactly_where_bonferroni_certifies():
    hits = np.arange(101)
    radii = joint_radii(votes(hits), alpha=1e-3, radius=radius)
    for tau in (0.55, 0.75, 0.9):
        certified = certify(votes(hits), tau=tau, alpha=1e-3, procedure='bonferroni').certified
        np.testing.assert_array_equal(radii > radius(tau), certified)


def test_radii_grow_with_hits_and_shrink_with_the_number_of_components():
    radii = joint_radii(votes(np.arange(101)), alpha=1e-3, radius=radius)
    assert (np.diff(radii) >= 0).all()
    assert radii[0] == radii[50] == 0
    alone = joint_radii(votes([95]), alpha=1e-3, radius=radius)
    assert alone[0] > radii[95]


@pytest.mark.parametrize('probability', [0.5, 0.6, 0.9, 0.98])
def test_same_draws_bounds_are_wrong_with_probability_below_alpha(probability):
    # Exact: the top class of two is chosen by the counts that are bounded.
    n, alpha = 60, 0.01
    bounds = clopper_pearson_table(n, alpha / 2)
    total = 0.0
    for share in (probability, 1 - probability):
        claims = np.arange(n + 1)[(np.arange(n + 1) > n / 2) & (bounds > max(share, 0.5))]
        total += stats.binom.pmf(claims, n, share).sum()
    assert total <= alpha
    both = votes(np.arange(51), n=50, n0=10, selection_hits=np.full(51, 10))
    found = joint_radii(both, alpha=alpha * 51, radius=radius, selection='same_draws')
    expected = [radius(b) if b > 0.5 else 0 for b in bounds[10:]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_no_radius_of_a_linear_model_exceeds_the_distance_to_its_boundary():
    # P(class) = Phi(distance / sigma) for a linear model.
    rng = np.random.default_rng(3)
    distance = rng.uniform(0, 0.8, 400)
    wrong = 0
    for _ in range(300):
        hits = rng.binomial(200, stats.norm.cdf(distance / 0.25))
        wrong += (joint_radii(votes(hits, n=200), alpha=0.05, radius=radius) > distance).any()
    assert wrong / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize('selection', ['holdout', 'same_draws'])
@pytest.mark.parametrize('looks', [False, True])
def test_joint_radii_are_the_radii_of_joint_bounds(selection, looks):
    hits = np.arange(101)
    both = votes(hits, selection_hits=np.full(101, 9))
    both = both.as_first_look() if looks else both
    bounds = joint_bounds(both, alpha=1e-3, selection=selection)
    radii = joint_radii(both, alpha=1e-3, radius=radius, selection=selection)
    expected = [radius(bound) if bound > 0.5 else 0 for bound in bounds]
    np.testing.assert_allclose(radii, expected, rtol=1e-5)
    share = 1e-3 / (2 if looks else 1) / 101
    if selection == 'holdout':
        expected = clopper_pearson_table(100, share)
    else:
        expected = clopper_pearson_table(110, share / 2)[9:110]
        expected[expected <= 0.5] = 0
        assert (bounds == 0).any()
    assert (bounds <= expected).all()
    np.testing.assert_allclose(bounds, expected, rtol=1e-6)


def test_looks_share_alpha():
    fixed = votes(np.array([90]))
    radii = [joint_radii(v, alpha=0.01, radius=radius) for v in (fixed, fixed.as_first_look())]
    half = joint_radii(fixed, alpha=0.005, radius=radius)
    assert radii[0] > radii[1] == half


def test_the_joint_curve_counts_by_definition():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 500)
    label[:50] = 255
    guess, hits = rng.integers(0, 3, 500), rng.integers(60, 101, 500)
    record = VotesRecord(votes(hits, guess=guess), {}, label=label)
    grid = [0.0, 0.05, 0.1, 0.3]
    curve = radius_curve([record, record], Task(3), grid, alpha=1e-3, radius=radius)
    radii = joint_radii(record.votes, alpha=1e-3, radius=radius)
    for row, value in zip(curve.rows(), grid, strict=True):
        kept, valid = radii > value, label != 255
        assert row['certAcc'] == pytest.approx((kept & (guess == label))[valid].mean())
        assert row['abstain'] == pytest.approx(1 - kept.mean())
        ious = []
        for c in range(3):
            hit = (kept & (guess == c) & (label == c)).sum()
            ious.append(hit / (valid & ((label == c) | (kept & (guess == c)))).sum())
        assert row['mIoU'] == pytest.approx(np.mean(ious))
