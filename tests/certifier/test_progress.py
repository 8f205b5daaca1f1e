"""The remaining time that a run reports, also of one that goes on."""

import logging

import pytest

from mmcert.certifier.progress import Progress

DRAWS, BATCH, PER_DRAW = 100, 10, 0.5
"""An input takes so many draws, in passes of so many, of so many seconds each."""


class Clock:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def begin(clock):
    def start(batches, processes=1):
        logger = logging.getLogger('progress')
        return Progress(batches, DRAWS, 'image', logger, processes, clock=clock)

    return start


def sample(progress, clock, name, before=0):
    """Samples an input, of which an earlier run has sampled some draws."""
    if before:
        progress.on_draws(name, before)
    for _ in range(before, DRAWS, BATCH):
        clock.now += BATCH * PER_DRAW
        progress.on_draws(name, BATCH)


def test_the_time_left_is_that_of_the_inputs_left(begin, clock):
    progress = begin(5)
    sample(progress, clock, 'a')
    assert progress.batch_done(1) == 'certified 1/5 batches, 50.0 s per image, about 0:03:20 left'


def test_inputs_found_in_the_store_do_not_make_the_others_faster(begin, clock):
    progress = begin(10)
    for _ in range(5):
        clock.now += 0.1
        words = progress.batch_done(1)
    assert words == 'certified 5/10 batches from stored votes'
    sample(progress, clock, 'f')
    assert progress.batch_done(1).endswith('6/10 batches, 50.0 s per image, about 0:03:20 left')
    # One more that is found.
    clock.now += 0.1
    assert progress.batch_done(1).endswith('50.0 s per image, about 0:02:30 left')


def test_a_batch_of_found_and_sampled_inputs_counts_the_sampled_ones(begin, clock):
    progress = begin(3)
    sample(progress, clock, 'b')
    assert progress.batch_done(2).endswith('50.0 s per image, about 0:03:20 left')


def test_an_input_that_goes_on_counts_as_a_whole_one(begin, clock):
    progress = begin(3)
    sample(progress, clock, 'a', before=70)
    assert clock.now == 15
    assert progress.batch_done(1).endswith('50.0 s per image, about 0:01:40 left')


def test_processes_that_share_draws_go_through_the_inputs_of_all(begin, clock):
    progress = begin(3, processes=2)
    for name in ('mine', 'yours'):
        sample(progress, clock, name)
    assert progress.batch_done(1).endswith('50.0 s per image, about 0:03:20 left')


def test_a_long_input_is_reported_at_the_rate_of_its_later_draws(begin, clock, caplog):
    progress = begin(1)
    with caplog.at_level(logging.INFO):
        sample(progress, clock, 'a', before=20)
    assert caplog.messages == ['a: 80/100 draws, 2.0 per second, about 0:00:10 left for this one']
