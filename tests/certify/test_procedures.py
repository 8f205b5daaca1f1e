import json
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mmcert.certify import CertifySettings, Votes, certify
from mmcert.certify.binomial import histogram, p_value_table
from mmcert.certify.procedures import PROCEDURES, Bonferroni, Family, register
from mmcert.certify.settings import PROCEDURE, SELECTION
from mmcert.votes import VotesRecord
from tests.certify import oracles
from tests.certify.oracles import reject, reject_p_values

ALPHAS = st.sampled_from([0.001, 0.01, 0.05, 0.2])


def votes(hits, n, selection_hits=None, n0=5):
    hits = np.asarray(hits)
    return Votes(np.zeros(hits.shape, dtype=int), hits, n, n0, selection_hits)


@st.composite
def families(draw, largest=12, n=12):
    size = draw(st.integers(1, largest))
    hits = np.array(draw(st.lists(st.integers(0, n), min_size=size, max_size=size)))
    return hits, np.array(draw(st.permutations(range(size))))


@given(families(), st.floats(0.5, 0.9), ALPHAS)
def test_ordered_holm_is_the_procedure_as_defined(family, tau, alpha):
    hits, order = family
    table = p_value_table(12, tau, 'holdout')
    found = reject('ordered_holm', hits, table, alpha, order=order).mask
    np.testing.assert_array_equal(found, oracles.ordered_holm(hits, table, alpha, list(order)))


@settings(max_examples=60, deadline=None)
@given(families(largest=6), st.floats(0.5, 0.8), st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_holm_and_ordered_holm_are_closed_tests(family, tau, alpha):
    hits, order = family
    table = p_value_table(12, tau, 'holdout')

    def ordered(members):
        return bool(oracles.ordered_local_test(members, hits, table, alpha, list(order)))

    def bonferroni(members):
        return min(table[hits[i]] for i in members) <= alpha / len(members)

    closed = oracles.closed_testing(len(hits), bonferroni)
    np.testing.assert_array_equal(reject('holm', hits, table, alpha).mask, closed)
    # Step-down may stop short of the full closure, and must never go beyond it.
    found = reject('ordered_holm', hits, table, alpha, order=order).mask
    assert (found <= oracles.closed_testing(len(hits), ordered)).all()
    assert (found >= closed).all()


@given(families(largest=40), st.floats(0.5, 0.9), ALPHAS)
def test_ordered_holm_contains_holm_contains_bonferroni(family, tau, alpha):
    hits, order = family
    table = p_value_table(12, tau, 'holdout')
    masks = [
        reject(name, hits, table, alpha, order=order).mask
        for name in ('bonferroni', 'holm', 'ordered_holm')
    ]
    assert (masks[0] <= masks[1]).all()
    assert (masks[1] <= masks[2]).all()


@given(families(largest=40), st.floats(0.5, 0.9), ALPHAS, st.integers(1, 10))
def test_procedures_equal_their_definitions_on_p_values(family, tau, alpha, k):
    hits, _ = family
    table = p_value_table(12, tau, 'holdout')
    p = table[hits]
    found = reject('kfwer', hits, table, alpha, k=k).mask
    np.testing.assert_array_equal(found, oracles.lehmann_romano(p, alpha, k))
    np.testing.assert_array_equal(found, reject_p_values('kfwer', p, alpha, k))
    for ours, theirs in (('holm', 'holm'), ('bonferroni', 'bonferroni')):
        # It collects garbage in every call, which takes long where much was imported.
        with mock.patch('gc.collect'):
            expected = multipletests(p, alpha, method=theirs)[0]
        np.testing.assert_array_equal(reject(ours, hits, table, alpha).mask, expected)


@given(families(largest=30), ALPHAS)
def test_rejections_grow_with_alpha_and_fall_with_tau(family, alpha):
    hits, order = family
    for name in PROCEDURES:
        masks = {
            (tau, level): reject(
                name, hits, p_value_table(12, tau, 'holdout'), level, k=2, order=order
            ).mask
            for tau in (0.6, 0.8)
            for level in (alpha, alpha / 3)
        }
        assert (masks[0.6, alpha] >= masks[0.6, alpha / 3]).all()
        assert (masks[0.6, alpha] >= masks[0.8, alpha]).all()


@given(families(largest=10), ALPHAS)
def test_the_cutoff_is_one_for_any_count(family, alpha):
    # Counts between the components' own are cut off where a component with them would be.
    hits, _ = family
    table = p_value_table(12, 0.6, 'holdout')
    for name in ('bonferroni', 'holm', 'kfwer'):
        found = reject(name, hits, table, alpha, k=2)
        pending = hits[~found.mask]
        if pending.size and found.cutoff <= 12:
            level = (2 if name == 'kfwer' else 1) * alpha / pending.size
            assert table[found.cutoff] <= level * (1 + 1e-12)


@given(families(largest=30), ALPHAS, st.data())
def test_what_is_rejected_already_may_be_left_out(family, alpha, data):
    # The step-down rules go on from any set of rejections that they would make themselves.
    hits, order = family
    table = p_value_table(12, 0.6, 'holdout')
    for name in PROCEDURES:
        whole = reject(name, hits, table, alpha, k=2, order=order).mask
        some = whole & np.array(data.draw(st.lists(st.booleans(), min_size=hits.size,
                                                   max_size=hits.size)))  # fmt: skip
        rest = reject(name, hits, table, alpha, k=2, order=order, pending=~some).mask
        if name == 'ordered_holm':
            assert ((some | rest) >= whole).all()
            assert not (rest & some).any()
        elif name != 'kfwer':
            np.testing.assert_array_equal(some | rest, whole)


def test_ordered_holm_certifies_where_holm_cannot_begin():
    hits = np.full(1000, 15)
    table = p_value_table(15, 0.5, 'holdout')
    assert not reject('holm', hits, table, 0.001).mask.any()
    assert reject('ordered_holm', hits, table, 0.001).mask.all()
    hits[:40] = 0
    assert not reject('ordered_holm', hits, table, 0.001).mask.any()
    assert reject('ordered_holm', hits, table, 0.001, order=np.arange(1000)[::-1]).mask.sum() == 960


def test_the_lehmann_romano_levels_match_the_vectors(vectors):
    for vector in vectors['L_critical_values']:
        inputs = vector['inputs']
        total, k, alpha = inputs['N'], inputs['k'], inputs['alpha']
        levels = np.array(vector['expected']['levels'])
        np.testing.assert_array_equal(reject_p_values('kfwer', levels * (1 - 1e-9), alpha, k), True)
        above = levels * (1 - 1e-9)
        above[-1] = levels[-1] * (1 + 1e-9)
        found = reject_p_values('kfwer', above, alpha, k)
        assert found.tolist() == [True] * (total - 1) + [False]


def test_kfwer_matches_the_vectors_and_not_the_invalid_constants(vectors):
    for vector in vectors['C_multiple_testing']:
        p, alpha = vector['inputs']['p'], vector['inputs']['alpha']
        for k in (1, 2):
            found = reject_p_values('kfwer', p, alpha, k)
            assert found.tolist() == vector['expected'][f'kfwer_k{k}']
    p, alpha = [0.0, 0.03, 0.09], 0.05
    assert reject_p_values('kfwer', p, alpha, 2).tolist() == [True, True, False]


def exact_union(probabilities, n, k):
    """P[some class has k votes or more], for k > n / 2, where these events exclude each other."""
    return stats.binom.sf(np.asarray(k)[:, None] - 1, n, probabilities).sum(axis=1)


@pytest.mark.parametrize('n', [2, 5, 20, 101])
@pytest.mark.parametrize('tau', [0.5, 0.6, 0.75, 0.95])
def test_same_draws_p_values_bound_every_null_distribution(n, tau):
    table = p_value_table(n, tau, 'same_draws')
    assert (np.diff(table) <= 0).all()
    rng = np.random.default_rng(n)
    k = np.arange(n // 2 + 1, n + 1)
    worst = np.zeros(len(k))
    for classes in (2, 3, 7):
        for _ in range(100):
            p = rng.dirichlet(np.full(classes, rng.choice([0.1, 1.0, 10.0])))
            worst = np.maximum(worst, exact_union(p[p <= tau], n, k))
    assert (worst <= table[k] + 1e-12).all()
    in_family = p_value_table(n, tau, 'same_draws', 1000)
    minority = stats.binom.sf(np.arange(n + 1) - 1, n, 1 - tau)
    expected = np.minimum(1, np.where(table < 1, table + 999 * minority, 1))
    np.testing.assert_allclose(in_family, expected, rtol=1e-9)
    attained = exact_union(np.array([tau, 1 - tau]), n, k)
    tested = table[k] < 1
    np.testing.assert_allclose(table[k][tested], attained[tested], rtol=1e-9)


@pytest.mark.parametrize('procedure', ['holm', 'ordered_holm', 'kfwer'])
def test_a_minority_class_of_a_sound_component_is_paid_for(procedure):
    # All components but one have a class just above tau = 1/2: only their other class is wrong.
    rng = np.random.default_rng(0)
    n, components, alpha, families = 30, 12, 0.1, 3000
    p = np.r_[0.5, np.full(components - 1, 0.5001)]
    k = {'k': 2} if procedure == 'kfwer' else {}
    wrong = 0
    for _ in range(families):
        first = rng.random((n, components)) < p
        hits = first.sum(axis=0)
        guess = (hits < n - hits).astype(int)
        votes = Votes(guess, np.maximum(hits, n - hits), n, 0)
        found = certify(
            votes, tau=0.5, alpha=alpha, procedure=procedure, selection='same_draws', **k
        )
        false = found.certified & ((guess == 1) | (p <= 0.5))
        wrong += np.count_nonzero(false) >= found.k
    assert wrong / families <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / families)


def test_same_draws_counts_the_selection_draws_as_well():
    # With Holm, 30 unanimous draws are just enough, and 20 are not.
    unanimous = votes(np.full(4, 20), 20, np.full(4, 10), n0=10)
    settings = {'tau': 0.75, 'alpha': 1e-3, 'procedure': 'holm'}
    assert not certify(unanimous, **settings, selection='holdout').certified.any()
    both = certify(unanimous, **settings, selection='same_draws')
    assert both.certified.all()
    assert both.to_dict()['selection'] == 'same_draws'


def test_votes_without_selection_draws_are_certified_by_same_draws_only():
    alone = votes(np.full(4, 40), 40, n0=0)
    assert certify(alone, tau=0.75, alpha=1e-3, selection='same_draws').certified.all()
    with pytest.raises(ValueError, match="use selection='same_draws'"):
        certify(alone, tau=0.75, alpha=1e-3, selection='holdout')
    with pytest.raises(ValueError, match='lack selection_hits'):
        certify(votes([5], 5), tau=0.75, alpha=1e-3, selection='same_draws')


def test_counts_of_all_draws_do_not_overflow_their_type():
    hits = np.full(3, 250, dtype=np.uint8)
    found = votes(hits, 250, np.full(3, 10, dtype=np.uint8), n0=10).stages('same_draws')
    assert found[0][0].tolist() == [260] * 3


def test_kfwer_is_a_promise_of_its_own():
    hits = np.r_[np.full(990, 60), np.full(10, 0)]
    certificate = certify(votes(hits, 60), tau=0.8, alpha=1e-3, procedure='kfwer', k=0.01)
    assert certificate.k == 10
    assert certificate.to_dict()['kind'] == 'count certificate'
    assert 'fewer than k = 10' in certificate.to_dict()['promise']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'procedure': 'kfwer'}, 'kfwer needs k'),
        ({'k': 3}, 'k belongs to the procedure kfwer'),
        ({'procedure': 'kfwer', 'k': 0}, 'at least 1 or a share'),
        ({'procedure': 'kfwer', 'k': 1.5}, 'at least 1 or a share'),
        ({'selection': 'both'}, "unknown selection 'both'; legal: auto, holdout, same_draws"),
        ({'procedure': 'hochberg'}, "unknown procedure 'hochberg'; legal: bonferroni, holm"),
        ({'order': 'random'}, 'order must be one of'),
        ({'order': 'selection', 'selection': 'same_draws'}, 'is not valid'),
    ],
)
def test_bad_terms_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CertifySettings(**{'tau': 0.75, 'alpha': 1e-3, **arguments})


def test_the_order_comes_from_what_the_counted_draws_had_no_part_in():
    selection_hits = np.array([1, 3, 3, 2])
    margin = np.array([9, 1, 2, 3])
    record = VotesRecord(votes([0] * 4, 5, selection_hits), {}, margin=margin)

    def first(hits, **arguments):
        settings = CertifySettings(0.5, 0.04, 'ordered_holm', 'holdout', **arguments)
        changed = VotesRecord(votes(hits, 5, selection_hits), {}, margin=margin)
        return changed.certify(settings).certified.tolist()

    # With n = 5, alpha = 0.04 and tau = 1/2 one component at a time may be tested, at 5 hits.
    assert first([5, 0, 5, 5]) == [False, False, True, False]
    assert first([5, 0, 5, 5], order='margin') == [True, False, True, True]
    assert first([5, 0, 5, 5], order='selection') == first([5, 0, 5, 5])
    bare = VotesRecord(record.votes, {})
    with pytest.raises(ValueError, match="order='margin' needs the margin"):
        bare.certify(CertifySettings(0.5, 0.04, procedure='ordered_holm', order='margin'))


def test_an_order_reaches_no_procedure_that_takes_none():
    given = votes([5, 0, 5, 5], 5, np.array([1, 3, 3, 2]))
    with mock.patch.object(Bonferroni, 'run', autospec=True, side_effect=Bonferroni.run) as run:
        certify(given, tau=0.5, alpha=0.3, procedure='bonferroni', order=[3, 2, 1, 0])
    assert run.call_args.args[1].order is None


def test_a_histogram_in_chunks_is_a_histogram():
    hits = np.random.default_rng(0).integers(0, 8, (300, 700)).astype(np.uint8)
    np.testing.assert_array_equal(histogram(hits, 9), np.bincount(hits.ravel(), minlength=10))


@given(families(largest=30), st.floats(0.5, 0.9), ALPHAS, st.data())
def test_coarser_counts_are_held_against_a_level_that_all_pending_can_pay(family, tau, alpha, data):
    hits, order = family
    table = p_value_table(12, tau, 'holdout')
    pending = np.array(data.draw(st.lists(st.booleans(), min_size=hits.size, max_size=hits.size)))
    for name in PROCEDURES:
        found = reject(name, hits, table, alpha, k=2, order=order, pending=pending)
        left = np.count_nonzero(pending & ~found.mask)
        if left and found.cutoff <= 12:
            k = 2 if name == 'kfwer' else 1
            assert left * table[found.cutoff] <= k * alpha * (1 + 1e-9)


def test_a_procedure_is_known_by_one_name():
    with pytest.raises(ValueError, match="unknown procedure 'new'; legal: bonferroni, holm"):
        CertifySettings(0.75, 1e-3, 'new')
    register(Bonferroni)  # once more is no harm
    with pytest.raises(ValueError, match="another procedure of the name 'holm'"):
        register(type('Other', (Bonferroni,), {'name': 'holm'}))


@pytest.mark.parametrize('name', PROCEDURES)
@pytest.mark.parametrize('components', [1, 2, 50])
@pytest.mark.parametrize('alpha', [0.001, 0.05])
def test_the_first_hits_are_what_a_first_rejection_needs(name, components, alpha):
    rule, k = PROCEDURES[name], 2 if PROCEDURES[name].takes_k and components > 1 else 1
    for n in (3, 12, 60):
        p = p_value_table(n, 0.6, 'holdout')
        first = rule.first_hits(p, alpha, components, k)
        hits = np.zeros(components, dtype=int)
        hits[0] = n if first is None else first
        assert reject(name, hits, p, alpha, k=k).mask[0] == (first is not None)
        if first:
            hits[0] = first - 1
            assert not reject(name, hits, p, alpha, k=k).mask.any()
            assert p[first] <= rule.critical_value(alpha, components, k) * (1 + 1e-12)


@pytest.mark.parametrize('name', PROCEDURES)
@pytest.mark.parametrize(('components', 'rejected'), [(1, 0), (50, 0), (50, 2), (50, 20), (50, 49)])
def test_the_next_critical_value_is_what_a_further_rejection_meets(name, components, rejected):
    rule = PROCEDURES[name].without_order
    alpha, k = 0.01, 5 if rule.takes_k and components > 5 else 1
    table = p_value_table(60, 0.6, 'holdout')
    pending = np.arange(components) >= rejected
    cutoff = int(np.count_nonzero(table > rule.next_critical_value(alpha, components, rejected, k)))
    for hits_of_one in (cutoff - 1, cutoff):
        hits = np.zeros(components, dtype=int)
        hits[-1] = hits_of_one
        found = rule.run(Family(hits, table, alpha, k, pending=pending))
        assert found.mask[-1] == (hits_of_one == cutoff)


def test_numpy_numbers_are_numbers():
    found = CertifySettings(np.float32(0.75), np.float64(1e-3), 'kfwer', k=np.float32(0.01))
    assert found.k_for(1000) == 9
    assert (type(found.tau), type(found.alpha), type(found.k)) == (float, float, float)
    assert CertifySettings(0.75, 1e-3, 'kfwer', k=np.int64(3)).k_for(1000) == 3
    assert type(CertifySettings(0.75, 1e-3, 'kfwer', k=np.int64(3)).k) is int
    json.dumps(vars(found))


def test_runs_and_answers_have_one_default():
    votes_of_both = votes(np.full(40, 60), 60, np.full(40, 5))
    found = certify(votes_of_both, tau=0.75, alpha=1e-3)
    assert (
        found.settings
        == CertifySettings(0.75, 1e-3)
        == CertifySettings(0.75, 1e-3, PROCEDURE, SELECTION)
    )
    assert (PROCEDURE, SELECTION) == ('ordered_holm', 'auto')


def test_k_is_at_most_the_number_of_components():
    assert CertifySettings(0.75, 0.5, 'kfwer', k=5).k_for(1) == 1
    lone = votes([0], 5)
    assert not certify(lone, tau=0.75, alpha=0.5, procedure='kfwer', k=5).certified.any()


def test_the_certificate_says_what_ordered_the_components():
    plain = votes([5, 5], 5, np.array([3, 4]))

    def order_of(record, **settings):
        arguments = {'procedure': 'ordered_holm', 'selection': 'holdout'} | settings
        return record.certify(CertifySettings(0.75, 0.1, **arguments)).to_dict().get('order')

    margin = np.array([1, 2])
    assert order_of(VotesRecord(plain, {})) == 'by the selection votes'
    assert 'ties by the margin' in order_of(VotesRecord(plain, {}, margin=margin))
    same = VotesRecord(plain, {}, margin=margin)
    assert order_of(same, selection='same_draws').startswith('by the margin of the clean input')
    assert order_of(VotesRecord(plain, {}), selection='same_draws').endswith('in memory')
    assert order_of(same, procedure='holm') is None
