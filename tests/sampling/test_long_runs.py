"""Long runs: kept, resumed, shared among processes, and fitted to the memory."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcert.perturbations import GaussianNoise
from mmcert.sampling import (
    BatchSize,
    Checkpoint,
    Checkpointer,
    LogitMaps,
    SamplingSettings,
    SegmentorOutputError,
    collect_looks,
)
from mmcert.sampling.batching import LARGEST, is_out_of_memory
from tests.sampling.support import sample_looks, sample_votes

NOISE = GaussianNoise(0.25)
GROUPS = [[0, 1, 1], [0, 0, 0]]


@pytest.fixture
def x():
    return torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(1))


def segment(images):
    """Three classes by the value of the noisy image, as coarse scores."""
    batch = torch.stack(list(images))
    coarse = torch.nn.functional.avg_pool2d(batch, 2)
    return LogitMaps(
        torch.stack([0.45 - coarse[:, 0], 0 * coarse[:, 0], coarse[:, 1] - 0.6], 1), (8, 10)
    )


def votes_of(x, segment=segment, **arguments):
    settings = {'n0': 12, 'n': 50, 'num_classes': 3, 'batch_size': 4, **arguments}
    return sample_votes(segment, x, NOISE, **settings)


def looks_of(x, segment=segment, start=None, **arguments):
    sizes = itertools.chain([40, 60])
    return sample_looks(
        segment, x, NOISE, n0=12, first=20, num_classes=3, batch_size=4, start=start,
        next_look=lambda votes: next((size for size in sizes if size > votes.n), None), **arguments,
    )  # fmt: skip


def assert_same(first, second):
    for a, b in zip((first, *first.group_votes), (second, *second.group_votes), strict=True):
        np.testing.assert_array_equal(a.guess, b.guess)
        np.testing.assert_array_equal(a.hits, b.hits)
        assert (a.selection_hits is None) == (b.selection_hits is None)
        if a.selection_hits is not None:
            np.testing.assert_array_equal(a.selection_hits, b.selection_hits)
        assert (a.n, a.n0, a.looks) == (b.n, b.n0, b.looks)
    np.testing.assert_array_equal(first.runner_up, second.runner_up)
    np.testing.assert_array_equal(first.runner_up_hits, second.runner_up_hits)


class Stop(BaseException):
    """Like Ctrl-C, at a call of the model."""


def stopping_after(calls):
    left = itertools.count(calls, -1)

    def stopped(images):
        if next(left) == 0:
            raise Stop
        return segment(images)

    return stopped


@pytest.mark.parametrize('calls', [1, 2, 3, 4, 7, 15])
@pytest.mark.parametrize(
    'arguments', [{}, {'n0': 0}, {'groups': GROUPS}], ids=['plain', 'n0=0', 'groups']
)
def test_a_run_that_was_broken_off_continues_to_the_same_votes(x, calls, arguments):
    expected = votes_of(x, **arguments)
    kept = []
    if calls >= 13 and arguments.get('n0') == 0:
        calls = 12
    with pytest.raises(Stop):
        votes_of(x, stopping_after(calls), checkpointer=Checkpointer(kept.append, 1e9), **arguments)
    assert kept, 'the votes so far were not kept'
    stored = Checkpoint.from_arrays({key: np.array(a) for key, a in kept[-1].to_arrays().items()})
    seen = []
    resumed = votes_of(
        x,
        lambda images: seen.extend(images) or segment(images),
        checkpointer=Checkpointer(kept.append, 1e9, stored),
        **{**arguments, 'batch_size': 7},
    )
    assert_same(resumed, expected)
    total = arguments.get('n0', 12) + 50
    assert len(seen) == total - 4 * calls


def test_a_run_that_an_earlier_version_began_continues_without_its_runners_up(x):
    kept = []
    with pytest.raises(Stop):
        votes_of(x, stopping_after(7), checkpointer=Checkpointer(kept.append, 1e9))
    arrays = {k: v for k, v in kept[-1].to_arrays().items() if not k.startswith('runner_up')}
    old = Checkpoint.from_arrays(arrays)
    assert old.done == 16
    seen = []
    resumed = votes_of(
        x,
        lambda images: seen.extend(images) or segment(images),
        checkpointer=Checkpointer(kept.append, 1e9, old),
    )
    assert len(seen) == 50 - 16
    assert resumed.runner_up is None and resumed.runner_up_hits is None
    np.testing.assert_array_equal(resumed.hits, votes_of(x).hits)


def test_a_run_is_kept_as_often_as_asked(x):
    kept = []
    votes_of(x, checkpointer=Checkpointer(kept.append, 0))
    # After every batch but the last one of a stage.
    assert [(part.stage, part.done) for part in kept[:3]] == [(0, 4), (0, 8), (1, 4)]
    assert len(kept) == 2 + 12
    kept.clear()
    votes_of(x, checkpointer=Checkpointer(kept.append, 1e9))
    assert kept == []


def test_looks_continue_inside_a_look(x):
    expected, kept, stored = looks_of(x), [], []

    def watched(sizes):
        def next_look(votes):
            stored.append(votes)
            return next((size for size in sizes if size > votes.n), None)

        return next_look

    with pytest.raises(Stop):
        collect_looks(
            stopping_after(10),
            x,
            NOISE,
            SamplingSettings(n0=12, n=None, num_classes=3, batch_size=4),
            first=20,
            next_look=watched([40, 60]),
            checkpointer=Checkpointer(kept.append, 1e9),
        )
    assert stored[-1].n == 20 and kept[-1].start == 20 and kept[-1].done == 8
    resumed = looks_of(x, start=stored[-1], checkpointer=Checkpointer(kept.append, 1e9, kept[-1]))
    assert_same(resumed, expected)


def test_what_was_only_half_counted_is_not_kept(x, monkeypatch):
    from mmcert.sampling import counters

    real, calls = counters.add_hits, itertools.count()

    def broken(hits, output, guess):
        real(hits, output, guess)
        if next(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(counters, 'add_hits', broken)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        votes_of(x, checkpointer=Checkpointer(kept.append, 1e9))
    assert kept == []


def test_counts_against_another_guess_are_not_continued(x):
    """As when the votes of the first look were lost, and other arithmetic chooses again."""
    kept = []
    with pytest.raises(Stop):
        looks_of(x, stopping_after(10), checkpointer=Checkpointer(kept.append, 1e9))
    part = kept[-1]
    assert (part.stage, part.start, part.done) == (1, 20, 8)

    def other(images):
        maps = segment(images)
        return maps.with_scores(maps.scores.roll(1, dims=1))

    continued = looks_of(x, other, checkpointer=Checkpointer(lambda part: None, 1e9, part))
    assert_same(continued, looks_of(x, other))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(x, value):
    def overflowing(images):
        maps = segment(images)
        maps.scores[0, 1, 2, 2] = value
        return maps

    with pytest.raises(SegmentorOutputError, match='NaN or infinite'):
        votes_of(x, overflowing)


def test_reading_the_labels_may_run_out_of_memory_as_well(x, monkeypatch):
    from mmcert.sampling import outputs

    expected, real = votes_of(x), outputs.decode_labels

    def limited_reading(maps):
        if len(maps) > 2:
            raise RuntimeError('DefaultCPUAllocator: not enough memory')
        return real(maps)

    monkeypatch.setattr(outputs, 'decode_labels', limited_reading)
    assert_same(votes_of(x, batch_size=8), expected)


def test_parts_of_another_stage_or_look_are_left_alone(x):
    other = Checkpoint(1, 20, 8, {'hits0': np.zeros((8, 10), np.int32)})
    assert_same(votes_of(x, checkpointer=Checkpointer(lambda part: None, 1e9, other)), votes_of(x))


def limited(largest, log):
    def run(images):
        log.append(len(images))
        if len(images) > largest:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate')
        return segment(images)

    return run


def test_a_batch_that_does_not_fit_is_halved_and_no_vote_is_lost(x):
    log = []
    batch = BatchSize(16)
    votes = votes_of(x, limited(5, log), batch_size=batch)
    assert_same(votes, votes_of(x))
    assert log[:3] == [12, 6, 3] and max(log[2:]) == 3
    assert batch.size == 3


def test_not_even_one_draw_fits(x):
    with pytest.raises(MemoryError, match='not even one draw.*smoothing.scales'):
        votes_of(x, limited(0, []))


def test_other_errors_are_not_taken_for_a_lack_of_memory(x):
    def fails(images):
        raise RuntimeError('shapes do not match')

    with pytest.raises(RuntimeError, match='shapes'):
        votes_of(x, fails)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError('out of memory'))


def test_a_batch_size_is_found_on_the_way(x):
    log = []

    def counted(images):
        log.append(len(images))
        return segment(images)

    batch = BatchSize('auto')
    votes = votes_of(x, counted, n=400, batch_size=batch)
    assert_same(votes, votes_of(x, n=400))
    assert log[:2] == [1, 1] and log[2:4] == [2, 2]
    assert sum(log) == 412
    assert 1 <= batch.size <= LARGEST


def test_the_search_for_a_batch_size_stops_where_memory_would_run_out(x, monkeypatch):
    from mmcert.sampling import batching

    used = iter([100, 200, 400, 800])
    monkeypatch.setattr(batching, 'memory', lambda device: (next(used), 1000))
    batch = BatchSize('auto')
    ticks = itertools.count()
    monkeypatch.setattr(batching.time, 'perf_counter', lambda: float(next(ticks)))
    votes_of(x, n=400, batch_size=batch)
    # At 8 draws 800 of 1000 are used: another doubling would take 800 more.
    assert not batch.searching
    assert batch.size == 8


@pytest.mark.parametrize('size', ['many', 0, True, 2.5])
def test_batch_sizes_are_checked(size):
    with pytest.raises(ValueError, match='batch_size'):
        BatchSize(size)


def test_draws_do_not_depend_on_the_order_in_memory(x):
    seen = []
    for image in (x, x.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        votes_of(image, lambda images: seen.append(images[0].clone()) or segment(images), n0=1, n=1)
    assert torch.equal(seen[0], seen[2])


def test_draws_made_at_once_are_those_made_one_by_one(x):
    def generators():
        made = [torch.Generator() for _ in range(5)]
        for index, generator in enumerate(made):
            generator.manual_seed(100 + index)
        return made

    one_by_one = [NOISE.sample(x, generator) for generator in generators()]
    assert torch.equal(NOISE.apply(x, NOISE.draw(x, generators())), torch.stack(one_by_one))


TWO = """
import sys
import numpy as np, torch, torch.distributed as dist
from tests.sampling.test_long_runs import GROUPS, looks_of, votes_of
from mmcert.sampling import Checkpointer, ProcessGroup

rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
processes = ProcessGroup.of_all_processes()
assert (processes.rank, processes.size) == (rank, 2)
x = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(1))
kept = []
runs = {
    'plain': votes_of(x, processes=processes, n=301, checkpointer=Checkpointer(kept.append, 0)),
    'single': votes_of(x, processes=processes, n0=1, n=1),
    'none': votes_of(x, processes=processes, n0=0),
    'many': votes_of(x, processes=processes, n0=0, n=300),
    'groups': votes_of(x, processes=processes, groups=GROUPS),
    'looks': looks_of(x, processes=processes),
}
part = processes.broadcast(lambda: kept[1])
resumed = votes_of(x, processes=processes, n=301, checkpointer=Checkpointer(kept.append, 1e9, part))
assert np.array_equal(resumed.hits, runs['plain'].hits)
assert (len(kept) > 0) == (rank == 0)
assert [processes.broadcast(lambda: processes.rank, source) for source in (0, 1)] == [0, 1]
np.savez(f'{out}-{rank}.npz', **{
    f'{name}-{field}-{level}': getattr(part, field)
    for name, votes in runs.items()
    for level, part in enumerate((votes, *votes.group_votes))
    for field in ('guess', 'hits', 'selection_hits')
    if getattr(part, field) is not None
})
dist.barrier()
dist.destroy_process_group()
"""


FAILING = """
import sys
import torch, torch.distributed as dist
from tests.sampling.test_long_runs import segment, votes_of
from mmcert.sampling import Checkpointer, ProcessGroup
from mmcert.sampling.process_group import ProcessGroupError

rank = int(sys.argv[1])
dist.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=rank, world_size=2)
processes = ProcessGroup.of_all_processes()
x = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(1))

def broken(images):
    maps = segment(images)
    if rank == 1:
        maps.scores[0, 0, 0, 0] = float('nan')
    return maps

def full(part):
    raise OSError('no space left')

def refused():
    raise KeyError('what')

seen = []
for attempt in (
    lambda: votes_of(x, broken, processes=processes),
    lambda: votes_of(x, n=400, processes=processes, checkpointer=Checkpointer(full, 0)),
    lambda: processes.broadcast(refused, 1),
):
    try:
        attempt()
    except Exception as error:
        seen.append(type(error).__name__)
errors = ['SegmentorOutputError', 'ProcessGroupError', 'KeyError']
assert seen == (errors if rank else ['ProcessGroupError', 'OSError', 'ProcessGroupError']), seen
assert processes.broadcast(lambda: 'still together') == 'still together'
dist.destroy_process_group()
"""


def test_a_failure_in_one_process_reaches_all(tmp_path):
    run_two(FAILING, tmp_path)


def run_two(script, tmp_path):
    """Runs a script as two processes, with rank, store and a prefix for files."""
    running = [
        subprocess.Popen(
            [
                sys.executable,
                '-c',
                script,
                str(r),
                str(tmp_path / 'store'),
                str(tmp_path / 'votes'),
            ],
            cwd=Path(__file__).parents[2],
        )
        for r in (0, 1)
    ]
    try:
        assert [process.wait(timeout=60) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()


def test_two_processes_that_share_an_input_have_the_votes_of_one(x, tmp_path):
    run_two(TWO, tmp_path)
    first, second = (np.load(tmp_path / f'votes-{rank}.npz') for rank in (0, 1))
    runs = {
        'plain': votes_of(x, n=301),
        'single': votes_of(x, n0=1, n=1),
        'none': votes_of(x, n0=0),
        'many': votes_of(x, n0=0, n=300),
        'groups': votes_of(x, groups=GROUPS),
        'looks': looks_of(x),
    }
    assert len(first.files) == 2 * 2 + 3 * 3 + 3 * 2 + 3
    for name, votes in runs.items():
        for level, part in enumerate((votes, *votes.group_votes)):
            for field in ('guess', 'hits', 'selection_hits'):
                if (expected := getattr(part, field)) is not None:
                    for found in (first, second):
                        np.testing.assert_array_equal(found[f'{name}-{field}-{level}'], expected)
