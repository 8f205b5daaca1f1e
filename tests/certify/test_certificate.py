import numpy as np
import pytest

from mmcert.certify import ABSTAIN_LABEL, Votes, certify


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
