"""Processes that share the draws of each input, through the ``Certifier``."""

import re

import pytest
import torch

from mmcert.certifier import Certifier
from mmcert.sampling import ProcessGroup
from mmcert.sampling.process_group import ProcessGroupError
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


class Differing(ProcessGroup):
    """A process among two; the other one has other weights."""

    def gather(self, value):
        return [value, {**value, 'weights': 'others'}]


def test_processes_with_other_models_do_not_add_up_their_draws():
    certifier = Certifier(PLANS['fixed'], identity={'weights': 'ours'}, processes=Differing())

    def segment(batch):
        raise AssertionError('nothing is sampled')

    with pytest.raises(ProcessGroupError, match='process 1 has another weights than process 0'):
        certifier.certify(segment, torch.zeros(SHAPES[0]))
