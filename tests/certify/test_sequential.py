from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcert.certify import CertifySettings, InfeasiblePlanError, Votes, certify, joint_radii
from mmcert.certify.planning import first_look
from mmcert.certify.procedures import PROCEDURES
from mmcert.certify.sequential import spend
from mmcert.votes import VotesRecord, load_votes, save_votes


def looks_of(counts, sizes, n0=5):
    """Votes of several looks from the hits in each block of draws."""
    guess = np.zeros(len(counts[0]), dtype=int)
    blocks = [
        Votes(guess, block, size, n0, np.full(len(guess), n0))
        for block, size in zip(counts, np.diff([0, *sizes]), strict=True)
    ]
    votes = blocks[0].as_first_look()
    for block in blocks[1:]:
        votes = votes.with_look(block)
    return votes


def test_the_levels_add_up_to_alpha_and_never_exceed_it():
    sums = np.cumsum([spend(0.05, look) for look in range(1, 2000)])
    assert sums[-1] < 0.05
    assert sums[-1] == pytest.approx(0.05, rel=1e-3)


def test_votes_remember_the_hits_at_each_look(tmp_path):
    votes = looks_of([[10, 3], [9, 1], [20, 2]], (10, 20, 40))
    assert votes.looks == (10, 20, 40)
    assert votes.hits.tolist() == [39, 6]
    assert [h.tolist() for h in votes.history] == [[10, 3], [19, 4]]
    save_votes(tmp_path / 'a.npz', VotesRecord(votes, {}))
    again = load_votes(tmp_path / 'a.npz').votes
    assert again.looks == votes.looks
    assert [h.tolist() for h in again.history] == [[10, 3], [19, 4]]


def test_a_component_certified_at_a_look_stays_certified():
    # Unanimous at the first look, and against the guess ever after.
    votes = looks_of([[60, 30], [0, 60]], (60, 120))
    assert certify(votes, tau=0.75, alpha=0.01).certified.tolist() == [True, False]
    assert not certify(replace(votes, looks=(), history=()), tau=0.75, alpha=0.01).certified.any()


def test_one_look_costs_half_of_alpha():
    votes = Votes(np.zeros(1, dtype=int), np.array([7]), 7, 5)
    assert certify(votes, tau=0.5, alpha=0.01).certified.all()
    assert not certify(votes.as_first_look(), tau=0.5, alpha=0.01).certified.any()


@given(st.integers(0, 2**32), st.sampled_from(['bonferroni', 'holm', 'kfwer', 'ordered_holm']))
def test_more_looks_never_take_a_certificate_back(seed, procedure):
    rng = np.random.default_rng(seed)
    p = rng.choice([0.6, 0.9, 1.0], 30)
    sizes = (40, 80, 160)
    blocks = [rng.binomial(size, p) for size in np.diff([0, *sizes])]
    k = {'k': 2} if procedure == 'kfwer' else {}
    masks = [
        certify(
            looks_of(blocks[:count], sizes[:count]),
            tau=0.7, alpha=0.05, procedure=procedure, **k,
        ).certified
        for count in (1, 2, 3)
    ]  # fmt: skip
    assert (masks[0] <= masks[1]).all()
    assert (masks[1] <= masks[2]).all()


def test_looks_that_do_not_fit_are_refused():
    guess, hits = np.zeros(2, dtype=int), np.array([3, 4])
    with pytest.raises(ValueError, match='looks must increase up to n=10'):
        Votes(guess, hits, 10, 5, looks=(5, 8), history=(hits,))
    with pytest.raises(ValueError, match='need the hits at 1 earlier'):
        Votes(guess, hits, 10, 5, looks=(5, 10))
    with pytest.raises(ValueError, match='fixed beforehand'):
        Votes(guess, hits, 10, 5).with_look(Votes(guess, hits, 10, 5))
    first = Votes(guess, hits, 10, 5).as_first_look()
    with pytest.raises(ValueError, match='looks of their own'):
        first.with_look(first)
    for other in (Votes(guess + 1, hits, 10, 5), Votes(guess, hits, 10, 6)):
        with pytest.raises(ValueError, match='same guess and n0'):
            first.with_look(other)


@pytest.mark.parametrize('alpha', [5e-324, 1.5e-323, 1e-310])
def test_levels_below_all_p_values_certify_nothing(alpha):
    zeros, full = np.zeros(3, dtype=int), np.full(3, 100)
    votes = Votes(zeros, full, 100, 10, full // 10, looks=(50, 100), history=(full // 2,))
    for procedure in PROCEDURES:
        k = {'k': 2} if procedure == 'kfwer' else {}
        found = certify(votes, tau=0.75, alpha=alpha, procedure=procedure, **k)
        assert not found.certified.any()
    for selection in ('holdout', 'same_draws', 'auto'):
        for counts in (votes, replace(votes, looks=(), history=())):
            radii = joint_radii(counts, alpha=alpha, radius=float, selection=selection)
            assert (radii < 0.5).all()
    with pytest.raises(InfeasiblePlanError, match='smaller than any p-value'):
        first_look(CertifySettings(0.75, alpha, 'holm'), 10**6, 10)
