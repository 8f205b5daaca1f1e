"""What votes tell of the confidence in each component."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtri

from mmcert.certify import Votes
from mmcert.certify.binomial import clopper_pearson_table
from mmcert.votes import Grid, VotesRecord
from mmcert.votes.confidence import KINDS, NO_RUNNER_UP, confidence_maps

VOTES = Votes(
    guess=np.array([[0, 3], [3, 1]]),
    hits=np.array([[100, 97], [60, 30]]),
    n=100,
    n0=10,
    selection_hits=np.array([[10, 10], [7, 4]]),
    runner_up=np.array([[0, 0], [1, 2]]),
    runner_up_hits=np.array([[0, 0], [2, 4]]),
)


def radius(tau):
    return 0.25 * float(ndtri(tau))


def maps_of(votes, **options):
    return confidence_maps(VotesRecord(votes, {}), **{'alpha': 1e-3, 'radius': radius, **options})


def test_each_map_is_what_its_description_says():
    maps = maps_of(VOTES, selection='holdout')
    assert maps.keys() == KINDS.keys()
    bounds = clopper_pearson_table(100, 1e-3 / 4)[VOTES.hits]
    np.testing.assert_array_equal(maps['guess'], VOTES.guess)
    np.testing.assert_allclose(maps['vote_share'], VOTES.hits / 100, rtol=1e-7)
    np.testing.assert_allclose(maps['lower_bound'], bounds, rtol=1e-6)
    assert (maps['lower_bound'] <= bounds).all()
    expected = [[radius(b) if b > 0.5 else 0 for b in row] for row in bounds]
    np.testing.assert_allclose(maps['radius'], expected, rtol=1e-6)
    assert maps['runner_up'].tolist() == [[NO_RUNNER_UP] * 2, [1, 2]]
    np.testing.assert_allclose(maps['runner_up_share'], [[0, 0], [0.2, 0.4]])
    types = {name: values.dtype for name, values in maps.items()}
    assert types == {
        name: 'uint8' if name in ('guess', 'runner_up') else 'float32' for name in maps
    }


def test_what_votes_cannot_tell_is_left_out():
    old = replace(VOTES, runner_up=None, runner_up_hits=None)
    assert maps_of(old, radius=None).keys() == {'guess', 'vote_share', 'lower_bound'}
    scores = replace(VOTES, selection_hits=None, table=np.linspace(1, 0, 101))
    assert maps_of(scores).keys() == {'guess', 'runner_up', 'runner_up_share'}
    enumerated = Votes(VOTES.guess, VOTES.hits // 10, n=10, n0=0, enumerated=True)
    maps = maps_of(enumerated)
    assert maps.keys() == {'guess', 'vote_share'}
    np.testing.assert_allclose(maps['vote_share'], [[1, 0.9], [0.6, 0.3]], rtol=1e-6)


def test_without_selection_draws_shares_are_of_all_draws():
    alone = replace(VOTES, n0=0, selection_hits=None)
    maps = maps_of(alone)
    np.testing.assert_allclose(maps['runner_up_share'], [[0, 0], [0.02, 0.04]])
    # What the same draws chose is bounded at half the level, and above 1/2 alone.
    assert maps['lower_bound'][0, 0] < maps_of(VOTES, selection='holdout')['lower_bound'][0, 0]
    assert maps['lower_bound'][1, 1] == 0


def test_maps_have_the_size_of_the_label():
    grid = Grid(rows=np.array([0, 0, 1]), columns=np.array([0, 1, 1, 1]))
    maps = confidence_maps(VotesRecord(VOTES, {}, grid=grid), alpha=1e-3)
    assert {values.shape for values in maps.values()} == {(3, 4)}
    assert maps['runner_up'][2].tolist() == [1, 2, 2, 2]


def test_a_class_that_the_maps_have_no_room_for_is_refused():
    with pytest.raises(ValueError, match='classes up to 254, got 255'):
        maps_of(replace(VOTES, guess=VOTES.guess + 252))
