"""Processes that share the draws of each input, through the ``Certifier``."""

import re

from tests.certifier.group import KILLS, PLANS, SHAPES
from tests.forks import run_program


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*.npz')}


def test_2_4_and_8_processes_give_the_bytes_of_one(tmp_path):
    run_program('tests.certifier.group', 'sizes', tmp_path)
    expected = files_of(tmp_path / '1')
    assert len(expected) == len(PLANS) * len(SHAPES)
    for size in (2, 4, 8):
        assert files_of(tmp_path / str(size)) == expected, size


def test_a_group_is_killed_at_random_and_ends_with_the_bytes_of_one(tmp_path):
    printed = run_program('tests.certifier.group', 'kills', tmp_path)
    assert int(re.search(r'killed (\d+) times', printed)[1]) >= KILLS // 2
    assert files_of(tmp_path / 'killed') == files_of(tmp_path / '1')
    # Nothing half written, and no checkpoint of a finished input.
    assert not list((tmp_path / 'killed').rglob('*.part'))
