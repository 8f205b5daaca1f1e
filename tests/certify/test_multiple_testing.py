import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmcert.certify import Votes, certify
from mmcert.certify.binomial import p_value_table
from tests.certify import oracles
from tests.certify.oracles import reject_p_values


def bonferroni(p, alpha):
    return reject_p_values('bonferroni', p, alpha)


def holm(p, alpha):
    return reject_p_values('holm', p, alpha)


families = hnp.arrays(
    np.float64,
    st.integers(0, 40),
    elements=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.001, 0.01, 0.025, 0.05, 1.0])),
)
alphas = st.sampled_from([0.001, 0.01, 0.05, 0.2])


@given(families, alphas)
def test_procedures_are_those_of_the_textbook(p, alpha):
    np.testing.assert_array_equal(holm(p, alpha), oracles.holm(p, alpha))
    np.testing.assert_array_equal(bonferroni(p, alpha), oracles.bonferroni(p, alpha))


@given(families, alphas)
def test_holm_rejects_what_bonferroni_rejects(p, alpha):
    assert (holm(p, alpha) >= bonferroni(p, alpha)).all()


@given(families, alphas, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order(p, alpha, random):
    order = list(range(len(p)))
    random.shuffle(order)
    np.testing.assert_array_equal(holm(p[order], alpha), holm(p, alpha)[order])


@given(families)
def test_rejections_grow_with_alpha(p):
    for procedure in (holm, bonferroni):
        assert (procedure(p, 0.05) >= procedure(p, 0.01)).all()


@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 40)
    ),
    st.floats(0.5, 0.9),
    alphas,
)
def test_certify_by_histogram_equals_the_tests_on_p_values(hits, tau, alpha):
    votes = Votes(guess=np.zeros(hits.shape, dtype=int), hits=hits, n=40, n0=5)
    p = p_value_table(40, tau, 'holdout')[hits]
    for name, procedure in (('holm', oracles.holm), ('bonferroni', oracles.bonferroni)):
        found = certify(votes, tau=tau, alpha=alpha, procedure=name).certified
        np.testing.assert_array_equal(found, procedure(p.ravel(), alpha).reshape(p.shape))


def test_procedures_match_the_vectors(vectors):
    for vector in vectors['C_multiple_testing']:
        p, alpha = vector['inputs']['p'], vector['inputs']['alpha']
        assert bonferroni(p, alpha).tolist() == vector['expected']['bonferroni']
        assert holm(p, alpha).tolist() == vector['expected']['holm']


def test_a_family_of_one_or_none():
    assert holm([0.01], 0.01).tolist() == [True]
    assert holm([], 0.01).shape == bonferroni([], 0.01).shape == (0,)


def test_ties_stand_or_fall_together():
    assert holm([0.02, 0.02, 0.02], 0.05).tolist() == [False] * 3
    assert holm([0.016, 0.016, 0.016], 0.05).tolist() == [True] * 3


@pytest.mark.parametrize('procedure', ['holm', 'bonferroni'])
@pytest.mark.parametrize('dependence', ['independent', 'identical', 'half false'])
def test_fwer_at_the_null_boundary_stays_below_alpha(procedure, dependence):
    # The worst point of the null: every true null has probability exactly tau.
    n, tau, alpha, components, families = 60, 0.75, 0.05, 200, 4000
    rng = np.random.default_rng(5)
    false_nulls = components // 2 if dependence == 'half false' else 0
    errors = 0
    for _ in range(families):
        hits = rng.binomial(n, tau, components)
        if dependence == 'identical':
            hits[:] = hits[0]
        hits[:false_nulls] = n
        votes = Votes(guess=np.zeros(components, dtype=int), hits=hits, n=n, n0=1)
        certified = certify(votes, tau=tau, alpha=alpha, procedure=procedure).certified
        errors += certified[false_nulls:].any()
        assert certified[:false_nulls].all()
    standard_error = np.sqrt(alpha * (1 - alpha) / families)
    assert errors / families <= alpha + 3 * standard_error
