import numpy as np
import pytest

from mmcert.certify import (
    ABSTAIN_LABEL,
    CertifySettings,
    Votes,
    certify,
    certify_enumerated,
    certify_votes,
    joint_radii,
)


def votes(hits, n=100, guess=None, n0=10):
    hits = np.asarray(hits)
    return Votes(
        guess=np.zeros(hits.shape, dtype=int) if guess is None else guess, hits=hits, n=n, n0=n0
    )


def test_unanimous_votes_are_certified_and_split_ones_are_not():
    certificate = certify(votes([100, 50]), tau=0.75, alpha=1e-3)
    assert certificate.certified.tolist() == [True, False]
    assert certificate.label_map().tolist() == [0, ABSTAIN_LABEL]


def test_the_mask_has_the_shape_of_the_votes():
    assert certify(votes(np.full((3, 4), 90)), tau=0.75, alpha=1e-3).certified.shape == (3, 4)


def test_nothing_is_certified_of_nothing():
    certificate = certify(votes(np.zeros((0,), dtype=int)), tau=0.75, alpha=1e-3)
    assert certificate.certified.shape == (0,)
    assert certificate.to_dict()['certified'] == 0


def test_fewer_are_certified_at_a_larger_tau_or_a_smaller_alpha():
    hits = votes(np.arange(101))
    loose = certify(hits, tau=0.6, alpha=1e-2).certified
    assert (loose >= certify(hits, tau=0.8, alpha=1e-2).certified).all()
    assert (loose >= certify(hits, tau=0.6, alpha=1e-4).certified).all()


def test_the_statement_carries_the_terms():
    statement = certify(votes([100, 0]), tau=0.75, alpha=1e-3, procedure='bonferroni').to_dict()
    assert statement == {
        'kind': 'certificate',
        'promise': 'no certificate of this input is wrong',
        'tau': 0.75,
        'alpha': 1e-3,
        'confidence': 0.999,
        'family': 'all components of this input',
        'procedure': 'bonferroni',
        'selection': 'holdout',
        'k': 1,
        'n0': 10,
        'n': 100,
        'components': 2,
        'certified': 1,
    }


def test_a_label_map_refuses_an_abstain_value_that_is_a_class():
    certificate = certify(votes([100], guess=np.array([254])), tau=0.75, alpha=1e-3)
    with pytest.raises(ValueError, match='254 must lie above every class'):
        certificate.label_map()
    assert certificate.label_map(abstain=300).tolist() == [254]


def test_a_narrow_guess_is_widened_for_the_abstain_value():
    certificate = certify(
        votes([100, 0], guess=np.array([3, 3], dtype=np.int8)), tau=0.75, alpha=1e-3
    )
    assert certificate.label_map().tolist() == [3, 254]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'tau': 0.4}, r'tau must lie in \[0.5, 1\), got 0.4'),
        ({'tau': 1}, 'got 1'),
        ({'alpha': 0}, r'alpha must lie in \(0, 1\), got 0'),
        ({'order': [0, 0]}, 'each of 0, ..., 1 once'),
        ({'order': [0]}, 'permutation of the 2 components'),
        ({'order': [0.0, 1.0]}, 'float64'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        certify(votes([1, 2]), **{'tau': 0.75, 'alpha': 1e-3, **arguments})


def test_an_order_is_accepted_and_changes_nothing_for_symmetric_procedures():
    plain = certify(votes([100, 90]), tau=0.75, alpha=1e-3).certified
    ordered = certify(votes([100, 90]), tau=0.75, alpha=1e-3, order=[1, 0]).certified
    np.testing.assert_array_equal(plain, ordered)


def test_an_enumeration_certifies_what_agreed_at_every_parameter():
    hits = np.array([[3, 2], [0, 3]])
    enumerated = Votes(np.array([[5, 6], [7, 8]]), hits, n=3, n0=0, enumerated=True)
    certificate = certify_enumerated(enumerated)
    assert certificate.label_map().tolist() == [[5, ABSTAIN_LABEL], [ABSTAIN_LABEL, 8]]
    assert certificate.to_dict() == {
        'kind': 'exact',
        'promise': 'no certificate of this input is wrong',
        'confidence': 1.0,
        'k': 1,
        'num_values': 3,
        'components': 4,
        'certified': 2,
    }
    assert (certify_votes(enumerated, None).certified == certificate.certified).all()


def test_draws_are_never_certified_without_a_test_nor_enumerations_with_one():
    unanimous = votes([100])
    for method in (certify_enumerated, lambda votes: certify_votes(votes, None)):
        with pytest.raises(ValueError, match='random draws, which prove nothing without a test'):
            method(unanimous)
    enumerated = Votes(np.zeros(1, dtype=int), np.array([100]), 100, 0, enumerated=True)
    settings = CertifySettings(0.75, 1e-3)
    for refused in (
        lambda: certify_votes(enumerated, settings),
        lambda: certify(enumerated, tau=0.75, alpha=1e-3, procedure='holm', selection='holdout'),
        lambda: joint_radii(enumerated, alpha=1e-3, radius=lambda tau: tau),
    ):
        with pytest.raises(ValueError, match='of an enumeration, where nothing was drawn'):
            refused()


@pytest.mark.parametrize(
    'fields',
    [dict(n0=1), dict(selection_hits=np.array([0])), dict(looks=(3,)), dict(group_votes=(1,))],
)
def test_an_enumeration_has_nothing_that_only_draws_have(fields):
    given = dict(guess=np.array([0]), hits=np.array([1]), n=3, n0=0, enumerated=True) | fields
    with pytest.raises(ValueError, match='no selection draws, looks or groups'):
        Votes(**given)
