import numpy as np
import pytest
from scipy import stats

from mmcert.certify import InfeasiblePlanError, Terms, Votes, certify, min_draws
from mmcert.certify.planning import (
    StoppingRule,
    can_certify,
    first_look,
    forecast,
    max_tau,
    outlook,
    require_feasible,
)
from mmcert.certify.procedures import PROCEDURES


def terms(procedure='holm', **arguments):
    k = {'k': 5} if procedure == 'kfwer' else {}
    return Terms(**({'tau': 0.75, 'alpha': 1e-3, 'procedure': procedure} | k | arguments))


def unanimous(n, components, n0):
    full = np.full(components, n)
    return Votes(np.zeros(components, dtype=int), full, n, n0, np.full(components, n0))


@pytest.mark.parametrize('procedure', PROCEDURES)
@pytest.mark.parametrize('selection', ['holdout', 'same_draws'])
@pytest.mark.parametrize('tau', [0.5, 0.75, 0.99])
@pytest.mark.parametrize('components', [1, 1000, 172800])
def test_min_draws_is_where_certification_becomes_possible(procedure, selection, tau, components):
    wanted = terms(procedure, selection=selection, tau=tau)
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
        best = max_tau(100, terms(procedure), 1000, n0=10)
        assert can_certify(100, terms(procedure, tau=best - 1e-6), 1000, 10)
        assert not can_certify(100, terms(procedure, tau=best + 1e-6), 1000, 10)
    assert max_tau(5, terms(), 1000) is None


def test_an_infeasible_plan_says_how_many_draws_it_needs():
    with pytest.raises(InfeasiblePlanError, match='smallest n that can is 66'):
        require_feasible(30, terms(), 172800)
    with pytest.raises(InfeasiblePlanError, match='ordered_holm, same_draws'):
        require_feasible(5, terms('ordered_holm', selection='same_draws'), 172800, 5)
    require_feasible(30, terms('ordered_holm'), 172800)


def test_the_outlook_agrees_with_the_tests():
    found = outlook(100, terms(), 172800)
    level = 1e-3 / 172800
    assert stats.binom.sf(found.first_hits - 1, 100, 0.75) <= level
    assert stats.binom.sf(found.first_hits - 2, 100, 0.75) > level
    assert stats.binom.sf(found.first_hits - 1, 100, found.probability) == pytest.approx(0.5)
    assert outlook(30, terms(), 172800).first_hits is None


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
    look = first_look(terms(), 172800)
    assert min_draws(terms(alpha=5e-4), 172800) < look < 2 * min_draws(terms(), 172800)
    assert first_look(terms('ordered_holm'), 172800) == look


@pytest.mark.parametrize(('budget', 'gain'), [(0, 0.1), (100, 1.0), (100, -0.1)])
def test_bad_stopping_rules_are_named(budget, gain):
    with pytest.raises(ValueError, match='budget|min_gain'):
        StoppingRule(budget, gain)
