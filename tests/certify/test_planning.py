import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mmcert.certify import CertifySettings, InfeasiblePlanError, Votes, certify, min_draws
from mmcert.certify.binomial import SELECTIONS
from mmcert.certify.planning import (
    StoppingRule,
    can_certify,
    draws_for_share,
    first_look,
    forecast,
    look_for_share,
    max_tau,
    outlook,
    outlook_in_looks,
    require_feasible,
)
from mmcert.certify.procedures import PROCEDURES
from mmcert.certify.selection import settle
from mmcert.certify.sequential import spend


def settings(procedure='holm', **arguments):
    k = {'k': 5} if procedure == 'kfwer' else {}
    return CertifySettings(**({'tau': 0.75, 'alpha': 1e-3, 'procedure': procedure} | k | arguments))


def unanimous(n, components, n0):
    full = np.full(components, n)
    return Votes(np.zeros(components, dtype=int), full, n, n0, np.full(components, n0))


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize('selection', ['holdout', 'same_draws'])
@pytest.mark.parametrize('tau', [0.5, 0.75, 0.99])
@pytest.mark.parametrize('components', [1, 1000, 172800])
def test_min_draws_is_where_certification_becomes_possible(procedure, selection, tau, components):
    wanted = settings(procedure, selection=selection, tau=tau)
    n = min_draws(wanted, components, n0=3)
    assert can_certify(n, wanted, components, n0=3)
    assert n == 1 or not can_certify(n - 1, wanted, components, n0=3)
    k = {'k': 5} if procedure == 'kfwer' else {}
    for draws in (n, n - 1):
        if draws:
            found = certify(
                unanimous(draws, components, 3),
                tau=tau, alpha=1e-3, procedure=procedure, selection=selection, **k,
            )  # fmt: skip
            assert found.certified.any() == (draws == n)


def test_max_tau_is_the_largest_that_can_be_certified():
    for procedure in PROCEDURES:
        best = max_tau(100, settings(procedure), 1000, n0=10)
        assert can_certify(100, settings(procedure, tau=best - 1e-6), 1000, 10)
        assert not can_certify(100, settings(procedure, tau=best + 1e-6), 1000, 10)
    assert max_tau(5, settings(), 1000) is None


def test_max_tau_at_an_exact_tie_is_one_half():
    for wanted in (
        settings('bonferroni', alpha=0.25, selection='same_draws'),
        settings('kfwer', alpha=0.25, k=100),
    ):
        assert can_certify(2, replace(wanted, tau=0.5), 1, 1)
        assert max_tau(2, wanted, 1, 1) == 0.5


def test_an_infeasible_plan_says_how_many_draws_it_needs():
    with pytest.raises(InfeasiblePlanError, match='smallest n that can is 66'):
        require_feasible(30, settings(), 172800)
    with pytest.raises(InfeasiblePlanError, match='ordered_holm, same_draws'):
        require_feasible(5, settings('ordered_holm', selection='same_draws'), 172800, 5)
    require_feasible(30, settings('ordered_holm'), 172800)


def least_hits(n, n0, components, wanted):
    """Counted hits that ``certify`` needs of the first component, where all others have none."""
    counted = n + n0 if settle(wanted, components, n0, n).selection == 'same_draws' else n

    def is_certified(count):
        first, hits = np.zeros(components, dtype=int), np.zeros(components, dtype=int)
        first[0] = min(count, n0) if counted > n else 0
        hits[0] = count - first[0]
        found = certify(
            Votes(np.zeros(components, dtype=int), hits, n, n0, first),
            tau=wanted.tau, alpha=wanted.alpha, procedure=wanted.procedure,
            selection=wanted.selection, k=wanted.k,
        )  # fmt: skip
        assert not found.certified[1:].any()
        return bool(found.certified[0])

    enough = [count for count in range(counted + 1) if is_certified(count)]
    assert enough == list(range(counted + 1 - len(enough), counted + 1))
    return (enough[0] if enough else None), counted


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize('selection', [*SELECTIONS, 'auto'])
@pytest.mark.parametrize(('n', 'n0'), [(20, 4), (59, 1), (100, 10)])
@pytest.mark.parametrize('components', [2, 30, 2000])
@pytest.mark.parametrize('tau', [0.5, 0.6, 0.75])
def test_the_first_hits_are_what_certify_needs(procedure, selection, n, n0, components, tau):
    wanted = settings(procedure, selection=selection, tau=tau)
    found = outlook(n, wanted, components, n0)
    assert (found.counting.first_hits, found.counting.counted) == least_hits(
        n, n0, components, wanted
    )


def test_the_first_hits_of_a_segmented_image():
    ordered = settings('ordered_holm', selection='same_draws')
    found = outlook(100, ordered, 172800, 10)
    assert (found.counting.first_hits, found.counting.counted) == (105, 110)
    found = outlook(100, replace(ordered, selection='holdout'), 172800, 10)
    assert (found.counting.first_hits, found.counting.counted) == (96, 100)
    assert settle(ordered, 172800, 10, 100).first_hits == 105
    # Too few draws for Holm: the one that is put first needs all of them.
    assert settle(replace(ordered, selection='holdout'), 172800, 10, 30).first_hits == 30
    assert settle(replace(ordered, procedure='holm'), 172800, 10, 30).first_hits is None


def test_how_many_draws_stand_one_vote_in_fifty():
    wanted = settings('ordered_holm', selection='same_draws')
    found = [
        draws_for_share(0.98, replace(wanted, tau=tau), 172800, 10)
        for tau in (0.6, 0.75, 0.85, 0.95)
    ]
    for ours, reported in zip(found, (28, 68, 159, 1367), strict=True):
        assert ours == pytest.approx(reported, rel=0.05)
    assert draws_for_share(0.98, replace(wanted, tau=0.98), 172800, 10) is None
    for tau, n in ((0.6, 28), (0.75, 68)):
        assert draws_for_share(0.98, replace(wanted, tau=tau), 172800, 10) == n
        for draws in (n - 1, n):
            counts = outlook(draws, replace(wanted, tau=tau), 172800, 10).counting
            enough = counts.first_hits is not None and counts.first_hits <= 0.98 * counts.counted
            assert enough == (draws == n)


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize(
    'asked', [{'selection': 'holdout'}, {'procedure': 'ordered_holm', 'order': 'selection'}]
)
def test_holdout_without_selection_draws_is_not_feasible(procedure, asked):
    wanted = settings(**{'procedure': procedure} | asked)
    wanted = replace(wanted, k=5 if wanted.procedure == 'kfwer' else None)
    assert can_certify(100, wanted, 1000, 1)
    assert not can_certify(100, wanted, 1000, 0)
    assert max_tau(100, wanted, 1000, 0) is None
    for refused in (
        lambda: min_draws(wanted, 1000, 0),
        lambda: require_feasible(100, wanted, 1000, 0),
        lambda: outlook(100, wanted, 1000, 0),
        lambda: draws_for_share(0.98, wanted, 1000, 0),
        lambda: first_look(wanted, 1000, 0),
    ):
        with pytest.raises(InfeasiblePlanError, match='no selection draws'):
            refused()


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize('selection', ['holdout', 'same_draws', 'auto'])
@pytest.mark.parametrize('tau', [0.5, 0.75])
def test_exact_ties_are_planned_as_they_are_tested(procedure, selection, tau):
    for power in (3, 5, 10, 17, 45):
        for components in (1, 2, 5, 64):
            alpha = tau**power * (components if procedure != 'ordered_holm' else 1)
            wanted = settings(procedure, selection=selection, tau=tau)
            if procedure == 'kfwer':
                alpha, wanted = alpha / 2, replace(wanted, k=2)
            if not 0 < alpha < 1:
                continue
            wanted = replace(wanted, alpha=alpha)
            n = min_draws(wanted, components, 2)
            for draws in (n, n - 1):
                if draws:
                    found = certify(
                        unanimous(draws, components, 2),
                        tau=tau, alpha=alpha, procedure=procedure, selection=selection, k=wanted.k,
                    )  # fmt: skip
                    assert found.certified.any() == (draws == n)
                    assert can_certify(draws, wanted, components, 2) == (draws == n)


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize('selection', ['holdout', 'same_draws', 'auto'])
@pytest.mark.parametrize(('components', 'n0'), [(1, 3), (100, 10), (172800, 10)])
def test_the_draws_for_a_share_are_the_first_that_are_enough(procedure, selection, components, n0):
    for tau, share in ((0.5, 0.9), (0.6, 1.0), (0.75, 0.95), (0.75, 0.9), (0.85, 0.98)):
        wanted = settings(procedure, selection=selection, tau=tau)
        found = draws_for_share(share, wanted, components, n0)

        def is_enough(n, wanted=wanted, share=share):
            counting = settle(wanted, components, n0, n)
            hits = counting.first_hits
            return hits is not None and hits <= share * counting.counted

        assert found == next(n for n in range(1, 400) if is_enough(n))


def test_the_outlook_of_looks_is_that_of_the_last_one_in_the_budget():
    wanted = settings(selection='holdout', tau=0.9)
    found = outlook_in_looks(1000, wanted, 172800, 10)
    first = first_look(wanted, 172800, 10)
    assert found.feasible and found.min_draws == first == 234
    assert found.looks == (234, 468, 936)
    at_last = outlook(936, replace(wanted, alpha=spend(1e-3, 3)), 172800, 10)
    assert (found.counting.first_hits, found.counting.counted) == (at_last.counting.first_hits, 936)
    for tau, able in ((found.max_tau - 1e-6, True), (found.max_tau + 1e-6, False)):
        at_tau = replace(wanted, tau=tau)
        assert (first_look(at_tau, 172800, 10) <= 1000) == able
        assert outlook_in_looks(1000, at_tau, 172800, 10).feasible == able
    beyond = outlook_in_looks(233, wanted, 172800, 10)
    assert not beyond.feasible and beyond.looks == () and beyond.max_tau < 0.9
    assert outlook_in_looks(1, wanted, 172800, 10).max_tau is None
    # With same draws all looks are tested where the first one is.
    same = outlook_in_looks(1000, settings(selection='same_draws', tau=0.5), 172800, 10)
    at_first = replace(settings(selection='same_draws', tau=0.5), alpha=spend(1e-3, 1))
    assert same.counting.tau == settle(at_first, 172800, 10, same.looks[0]).tau > 0.5


def test_the_look_for_a_share_is_the_first_that_is_enough():
    wanted = settings('ordered_holm', selection='holdout', tau=0.9)
    first = first_look(wanted, 172800, 10)
    hits = [
        outlook(first * 2**look, replace(wanted, alpha=spend(1e-3, look + 1)), 172800, 10)
        for look in range(3)
    ]
    enough = [o.counting.first_hits <= 0.98 * o.counting.counted for o in hits]
    assert enough == [False, True, True]
    assert look_for_share(0.98, wanted, 172800, 10) == 2 * first
    assert look_for_share(0.9, wanted, 172800, 10) is None


def test_a_level_below_all_p_values_is_named():
    tiny = settings(alpha=1e-320, selection='holdout')
    assert not can_certify(3000, tiny, 10**6, 5)
    assert max_tau(3000, tiny, 10**6, 5) is None
    with pytest.raises(InfeasiblePlanError, match=r'10\^-326.0, is smaller than any p-value'):
        min_draws(tiny, 10**6, 5)
    with pytest.raises(InfeasiblePlanError, match='smaller than any p-value'):
        require_feasible(3000, tiny, 10**6, 5)
    # As a p-value this is 0 in double precision, and so is the level.
    votes = Votes(np.zeros(10**6, dtype=int), np.full(10**6, 3000), 3000, 5)
    for procedure in PROCEDURES:
        k = {'k': 5} if procedure == 'kfwer' else {}
        found = certify(votes, tau=0.78, alpha=1e-320, procedure=procedure, **k)
        assert not found.certified.any()


def test_the_smallest_level_that_can_be_told_is_planned_for():
    small = settings(alpha=1e-300, selection='holdout')
    n = min_draws(small, 10**6, 5)
    full = np.full(10**6, n)
    assert certify(
        Votes(np.zeros(10**6, dtype=int), full, n, 5), tau=0.75, alpha=1e-300, procedure='holm'
    ).certified.all()


def test_the_outlook_agrees_with_the_tests():
    found = outlook(100, settings(selection='holdout'), 172800, 5).counting
    level = 1e-3 / 172800
    assert stats.binom.sf(found.first_hits - 1, 100, 0.75) <= level
    assert stats.binom.sf(found.first_hits - 2, 100, 0.75) > level
    assert stats.binom.sf(found.first_hits - 1, 100, found.probability) == pytest.approx(0.5)
    assert outlook(30, settings(), 172800).counting.first_hits is None


def sequential(p, n, rng, components=5000):
    hits = rng.binomial(n, p, components)
    votes = Votes(np.zeros(components, dtype=int), hits, n, 10, np.full(components, 10))
    return votes.as_first_look()


def test_the_forecast_is_close_to_what_more_draws_certify():
    rng = np.random.default_rng(0)
    p = np.r_[np.full(3000, 0.99), np.full(2000, 0.9)]
    first = sequential(p, 80, rng)
    certificate = certify(first, tau=0.75, alpha=1e-3)
    more = Votes(first.guess, rng.binomial(80, p), 80, 10, first.selection_hits)
    second = certify(first.with_look(more), tau=0.75, alpha=1e-3)
    gained = second.certified.sum() - certificate.certified.sum()
    assert forecast(first, certificate, 160) == pytest.approx(gained, rel=0.2)


def test_the_stopping_rule_stops_for_each_of_its_reasons():
    rng = np.random.default_rng(0)
    rule = StoppingRule(budget=320, min_gain=0.01)

    def decision(p, n=80, rule=rule):
        votes = sequential(np.asarray(p), n, rng)
        return rule.decide(votes, certify(votes, tau=0.75, alpha=1e-3))

    assert decision(np.full(5000, 1.0)).reason == 'all components are certified'
    assert decision(np.full(5000, 0.3)).reason == 'more draws would add little'
    going = decision(np.full(5000, 0.9))
    assert (going.reason, going.next_look) == (None, 160)
    spent = decision(np.full(5000, 0.9), rule=StoppingRule(budget=159))
    assert spent.reason == 'the budget is spent'
    assert spent.gain > 0.1


def test_the_first_look_leaves_room_for_votes_against():
    look = first_look(settings(), 172800)
    assert min_draws(settings(alpha=5e-4), 172800) < look < 2 * min_draws(settings(), 172800)
    assert first_look(settings('ordered_holm'), 172800) == look


@pytest.mark.parametrize(('budget', 'gain'), [(0, 0.1), (100, 1.0), (100, -0.1)])
def test_bad_stopping_rules_are_named(budget, gain):
    with pytest.raises(ValueError, match='budget|min_gain'):
        StoppingRule(budget, gain)


@pytest.mark.parametrize('tau', [1 - 1e-6, 1 - 1e-12, math.nextafter(1.0, 0.0)])
def test_plans_at_thresholds_that_no_draws_attain_are_answered_at_once(tau):
    # An attack set that moves an input too far asks for such a threshold: no table is that long.
    for selection in ('holdout', 'same_draws', 'auto'):
        settings = CertifySettings(tau, 1e-3, 'holm', selection)
        least = min_draws(settings, 2000, 10)
        assert least * -math.log(tau) == pytest.approx(math.log(2000 / 1e-3), rel=1e-5)
        with pytest.raises(InfeasiblePlanError, match='cannot certify anything'):
            require_feasible(100, settings, 2000, 10)
