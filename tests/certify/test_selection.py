"""Which draws are counted and where they are tested: decided by the plan, never by votes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import optimize, stats

from mmcert.certify import CertifySettings, Votes, certify, joint_radii
from mmcert.certify.binomial import balanced_tau, best_tau, p_value_table
from mmcert.certify.certificate import component_order
from mmcert.certify.planning import can_certify, forecast, max_tau, min_draws, outlook
from mmcert.certify.procedures import PROCEDURES
from mmcert.certify.selection import settle, settle_votes
from mmcert.certify.sequential import spend
from mmcert.votes import VotesRecord

K, ALPHA = 172_800, 1e-3


def settings(procedure='holm', selection='same_draws', **arguments):
    k = {'k': 0.001} if procedure == 'kfwer' else {}
    return CertifySettings(**{'tau': 0.5, 'alpha': ALPHA} | k | arguments,
                 procedure=procedure, selection=selection)  # fmt: skip


def probabilities(components, seed, sure):
    """Of class 0: a segmentor that is sure of four fifths of the components."""
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random(components) < sure, rng.beta(200, 0.5, components), rng.beta(3, 1, components)
    )


def drawn(components=K, n0=10, n=100, seed=0, sure=0.8):
    """Votes of such a segmentor; two classes."""
    rng, p = np.random.default_rng([seed, 1]), probabilities(components, seed, sure)
    first, second = rng.binomial(n0, p), rng.binomial(n, p)
    top = 2 * first >= n0
    return Votes(
        np.where(top, 0, 1), np.where(top, second, n - second), n, n0,
        np.where(top, first, n0 - first),
    )  # fmt: skip


def p_value(n, hits, tau, components):
    return stats.binom.sf(hits - 1, n, tau) + components * stats.binom.sf(hits - 1, n, 1 - tau)


@pytest.mark.parametrize('components', [2, 1000, K, 2_097_152])
@pytest.mark.parametrize(('n', 'hits'), [(2, 2), (20, 15), (110, 70), (110, 90), (110, 110)])
def test_the_best_tau_is_where_the_p_value_is_smallest(components, n, hits):
    found = float(best_tau(n, hits, components))
    searched = optimize.minimize_scalar(
        lambda tau: p_value(n, hits, tau, components), bounds=(0.5, 1), method='bounded',
        options={'xatol': 1e-9},
    )  # fmt: skip
    assert p_value(n, hits, found, components) <= searched.fun * (1 + 1e-9)


@pytest.mark.parametrize('n', [1, 2, 3, 20, 110, 550])
@pytest.mark.parametrize('components', [1, 50, K])
def test_no_tau_needs_fewer_hits_for_the_first_certificate(n, components):
    level = ALPHA / components
    for later in (level, 5 * level):
        tau = balanced_tau(n, components, level, later)
        assert 0.5 <= tau < 1
        hits = np.count_nonzero(p_value_table(n, tau, 'same_draws', components) > level)
        for other in np.linspace(0.5, 0.99, 50):
            table = p_value_table(n, other, 'same_draws', components)
            assert hits <= np.count_nonzero(table > level) or hits == n + 1


def test_votes_have_no_part_in_what_is_settled():
    votes = drawn(500)
    rng = np.random.default_rng(1)
    other = replace(
        votes, guess=rng.integers(0, 3, 500), hits=rng.integers(0, 101, 500),
        selection_hits=rng.integers(0, 11, 500),
    )  # fmt: skip
    for procedure in PROCEDURES:
        for selection in ('holdout', 'same_draws', 'auto'):
            for tau in (0.5, 0.6, 0.9):
                wanted = settings(procedure, selection, tau=tau)
                assert settle_votes(votes, wanted) == settle_votes(other, wanted)


def test_far_above_one_half_same_draws_are_tested_at_tau():
    for tau in (0.6, 0.75, 0.95):
        for procedure in PROCEDURES:
            assert settle(settings(procedure, tau=tau), K, 10, 100).tau == tau
    assert settle(settings('holm'), K, 10, 100).tau > 0.5
    assert settle(settings('holm', 'holdout'), K, 10, 100).tau == 0.5


@pytest.mark.parametrize('procedure', PROCEDURES)
def test_a_smaller_tau_certifies_no_less(procedure):
    votes, counts = drawn(), []
    record = VotesRecord(votes, {}, margin=np.clip(votes.hits * 2, 0, 255))
    for tau in (0.5, 0.52, 0.55, 0.6, 0.7):
        found = record.certify(settings(procedure, tau=tau))
        assert found.tested_tau >= tau
        counts.append(int(found.certified.sum()))
        statement = found.to_dict()
        assert statement.get('tested_tau', tau) == found.tested_tau
        assert ('tested_tau' in statement) == (found.tested_tau > tau)
    assert counts == sorted(counts, reverse=True)
    # Tested at tau itself, 0.5 would need more hits than 0.55.
    at_half = p_value_table(110, 0.5, 'same_draws', K)
    assert balanced_tau(110, K, ALPHA / K, ALPHA / K) < 0.55
    assert (at_half > ALPHA / K).sum() > (
        p_value_table(110, 0.55, 'same_draws', K) > ALPHA / K
    ).sum()


@pytest.mark.parametrize('procedure', ['holm', 'ordered_holm'])
@pytest.mark.parametrize('selection', ['holdout', 'same_draws', 'auto'])
@pytest.mark.parametrize(('n0', 'n', 'components'), [(10, 20, 2_097_152), (10, 100, K), (0, 40, 9)])
def test_feasibility_is_monotone_in_tau_and_ends_at_max_tau(
    procedure, selection, n0, n, components
):
    wanted = settings(procedure, selection)
    taus = np.linspace(0.5, 0.999, 200)
    able = [can_certify(n, replace(wanted, tau=tau), components, n0) for tau in taus]
    assert able == sorted(able, reverse=True)
    largest = max_tau(n, wanted, components, n0)
    assert (largest is None) == (not able[0])
    if largest is not None:
        np.testing.assert_array_equal(able, taus <= largest)


def test_the_largest_tau_exists_where_the_order_alone_can_begin():
    # Tested at 1/2 itself, 30 unanimous draws have a p-value of 0.002 among two million.
    assert max_tau(20, settings('ordered_holm'), 2_097_152, 10) == pytest.approx(0.7943, abs=1e-4)
    assert max_tau(20, settings('holm'), 2_097_152, 10) is None
    record = VotesRecord(
        Votes(np.zeros(50, dtype=int), np.full(50, 20), 20, 10, np.full(50, 10)), {}
    )
    assert record.certify(settings('ordered_holm')).certified.all()


@pytest.mark.parametrize('procedure', PROCEDURES)
def test_auto_is_the_better_of_both_or_nearly(procedure):
    worst = 0.0
    for n0, n in ((10, 100), (20, 60), (50, 500)):
        for seed, sure in enumerate((0.8, 0.5)):
            votes = drawn(20_000, n0, n, seed, sure)
            # Drawn apart, as the margin of a clean input tells something of the probability.
            margin = np.random.default_rng(9).binomial(20, probabilities(20_000, seed, sure))
            record = VotesRecord(votes, {}, margin=margin)
            for tau in (0.5, 0.55, 0.6, 0.75, 0.85, 0.9):
                share = {
                    selection: record.certify(
                        settings(procedure, selection, tau=tau)
                    ).certified.mean()
                    for selection in ('holdout', 'same_draws', 'auto')
                }
                worst = max(worst, max(share.values()) - share['auto'])
    assert worst < 0.01


def test_auto_takes_what_the_draws_and_the_order_leave_open():
    hits, full = np.full(6, 40), np.full(6, 10)
    both = Votes(np.zeros(6, dtype=int), hits, 40, 10, full)
    bare, alone = replace(both, selection_hits=None), Votes(both.guess, hits, 40, 0)
    assert (both.selections, bare.selections) == (('holdout', 'same_draws'), ('holdout',))
    assert certify(bare, tau=0.75, alpha=0.01).selection == 'holdout'
    assert certify(alone, tau=0.75, alpha=0.01).selection == 'same_draws'
    assert certify(both, tau=0.75, alpha=0.01).to_dict()['selection'] == 'same_draws'
    ordered = CertifySettings(0.75, 0.01, 'ordered_holm', order='selection')
    record = VotesRecord(both, {}, margin=np.arange(6))
    assert record.certify(ordered).selection == 'holdout'
    order = component_order(record.votes, ordered, record.margin)
    assert order.permutation.tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match='lack'):
        VotesRecord(alone, {}).certify(ordered)


def test_auto_with_an_order_of_the_callers_counts_no_selection_draws():
    both = Votes(np.zeros(6, dtype=int), np.full(6, 40), 40, 10, np.full(6, 10))
    order = np.argsort(-both.selection_hits, kind='stable')
    first = replace(both, hits=np.full(6, 20)).as_first_look()
    for votes in (both, first, first.with_look(both)):
        assert certify(votes, tau=0.75, alpha=0.01).selection == 'same_draws'
        found = certify(votes, tau=0.75, alpha=0.01, order=order)
        assert (found.selection, found.to_dict()['selection']) == ('holdout', 'holdout')
        explicit = certify(votes, tau=0.75, alpha=0.01, order=order, selection='same_draws')
        assert explicit.selection == 'same_draws'
        # Where the order is not used, it leaves everything as it is.
        plain = certify(votes, tau=0.75, alpha=0.01, order=order, procedure='holm')
        assert plain.selection == 'same_draws'
    alone = replace(both, n0=0, selection_hits=None)
    assert certify(alone, tau=0.75, alpha=0.01, order=order).selection == 'same_draws'


def test_what_can_certify_goes_before_what_cannot():
    # 24 draws are enough for Holm at 0.6, and 40 at 1/2 with the second term are not needed.
    for n0, n in ((5, 30), (2, 24), (40, 20)):
        for tau in (0.5, 0.6, 0.75, 0.9):
            for procedure in PROCEDURES:
                able = {
                    selection: can_certify(n, settings(procedure, selection, tau=tau), 1536, n0)
                    for selection in ('holdout', 'same_draws')
                }
                found = settle(settings(procedure, 'auto', tau=tau), 1536, n0, n)
                assert able[found.selection] == any(able.values())
                assert can_certify(n, settings(procedure, 'auto', tau=tau), 1536, n0) == any(
                    able.values()
                )


def test_all_looks_are_tested_at_what_the_first_settles():
    votes = drawn(3000, n=40).as_first_look()
    first = settle_votes(votes, settings())
    whole = votes.with_look(drawn(3000, n=40))
    whole = replace(whole, guess=votes.guess)
    assert settle_votes(whole, settings()) == first
    assert first.tau == settle(settings(alpha=spend(ALPHA, 1)), 3000, 10, 40).tau > 0.5
    found = certify(whole, **{**vars(settings()), 'order': None})
    assert found.tested_tau == first.tau
    expected = np.zeros(3000, dtype=bool)
    for look, (hits, n) in enumerate(whole.stages('same_draws'), start=1):
        table = p_value_table(n, first.tau, 'same_draws', 3000)
        left = 3000 - expected.sum()
        # Holm by hand: repeat Bonferroni's cut-off among what is left.
        while True:
            new = (table[hits] <= spend(ALPHA, look) / left) & ~expected
            if not new.any():
                break
            expected |= new
            left = 3000 - expected.sum()
    np.testing.assert_array_equal(found.certified, expected)
    assert forecast(whole, found, 160) >= 0


def test_joint_radii_take_the_selection_of_the_larger_bound():
    votes = drawn(2000)
    radii = {
        name: joint_radii(votes, alpha=ALPHA, radius=float, selection=name)
        for name in ('holdout', 'same_draws', 'auto')
    }
    np.testing.assert_array_equal(radii['auto'], radii['same_draws'])
    assert radii['same_draws'].max() > radii['holdout'].max()
    bare = replace(votes, selection_hits=None)
    np.testing.assert_array_equal(joint_radii(bare, alpha=ALPHA, radius=float), radii['holdout'])
    # A single selection draw is not worth half of the level.
    few = Votes(votes.guess, np.minimum(votes.hits, 50), 100, 1, np.ones(2000, dtype=int))
    holdout = joint_radii(few, alpha=ALPHA, radius=float, selection='holdout')
    np.testing.assert_array_equal(joint_radii(few, alpha=ALPHA, radius=float), holdout)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(PROCEDURES)), st.integers(0, 6), st.integers(1, 60),
    st.sampled_from([1, 7, 1000, K]), st.floats(0.5, 0.95), st.sampled_from([1e-3, 0.05, 0.3]),
)  # fmt: skip
def test_the_outlook_agrees_with_the_planner(procedure, n0, n, components, tau, alpha):
    k = {'k': 2} if procedure == 'kfwer' else {}
    wanted = CertifySettings(tau, alpha, procedure, 'auto', **k)
    found = outlook(n, wanted, components, n0)
    assert found.feasible == can_certify(n, wanted, components, n0)
    assert (found.min_draws <= n) == found.feasible
    assert found.max_tau is None or (found.max_tau >= tau) == found.feasible
    assert min_draws(wanted, components, n0) == min(
        min_draws(replace(wanted, selection=selection), components, n0)
        for selection in (('holdout', 'same_draws') if n0 else ('same_draws',))
    )
