"""Processes that share the draws of each input, through the ``Certifier``."""

import re

import pytest

from tests.certifier.group import KILLS, PLANS, SHAPES
from tests.forks import run_program


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    """What one process, groups of several and killed groups left, and what the program said."""
    folder = tmp_path_factory.mktemp('groups')
    return folder, run_program('tests.certifier.group', folder)


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*.npz')}


def test_2_4_and_8_processes_give_the_bytes_of_one(ran):
    folder, _ = ran
    expected = files_of(folder / '1')
    assert len(expected) == len(PLANS) * len(SHAPES)
    for size in (2, 4, 8):
        assert files_of(folder / str(size)) == expected, size


def test_a_group_is_killed_at_random_and_ends_with_the_bytes_of_one(ran):
    folder, printed = ran
    assert int(re.search(r'killed (\d+) times', printed)[1]) >= KILLS // 2
    assert files_of(folder / 'killed') == files_of(folder / '1')
    # Nothing half written, and no checkpoint of a finished input.
    assert not list((folder / 'killed').rglob('*.part'))
