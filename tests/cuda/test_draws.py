"""Draws and votes on a device: addressable, resumed, shared, and fitted to its memory."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmcert.perturbations import (
    BrightnessContrast,
    CyclicTranslation,
    Exponential,
    GaussianBlur,
    GaussianNoise,
    LaplaceNoise,
    PooledNoise,
    TransformationCells,
)
from mmcert.sampling import BatchSize, Checkpoint, Checkpointer, LogitMaps
from mmcert.sampling.draws import ESTIMATION, draw_seed, input_digest
from tests.perturbations.test_surrogate import linear
from tests.sampling.support import sample_votes
from tests.sampling.test_long_runs import GROUPS, Stop, assert_same, segment, votes_of
from tests.sampling.test_long_runs import stopping_after as stopping

from .support import (
    DEVICES,
    NOISE,
    ROOT,
    arrays,
    assert_same_bytes,
    finish,
    image_on,
    runs,
    start,
)

PERTURBATIONS = {
    'GaussianNoise': lambda: GaussianNoise(0.25),
    'LaplaceNoise': lambda: LaplaceNoise(0.2),
    'GaussianBlur': lambda: GaussianBlur(Exponential(4.0)),
    'BrightnessContrast': lambda: BrightnessContrast(0.1, 0.2),
    'CyclicTranslation': lambda: CyclicTranslation(3.0),
    'SurrogateTransform': linear,
}


def generators(device, count, first=100):
    made = [torch.Generator(device) for _ in range(count)]
    for index, generator in enumerate(made):
        generator.manual_seed(first + index)
    return made


def draws_seen(x, batch_size, n=23):
    """The estimation draws that the model gets, in order."""
    seen = []
    votes_of(
        x, lambda images: seen.extend(i.clone() for i in images) or segment(images),
        n0=1, n=n, batch_size=batch_size,
    )  # fmt: skip
    return torch.stack(seen[1:])


@pytest.mark.parametrize('device', DEVICES)
def test_draw_j_is_the_same_tensor_in_any_batch(device):
    x = image_on(device)
    one_by_one = draws_seen(x, 1)
    assert one_by_one.device.type == device and len(one_by_one) == 23
    for batch_size in (7, 64, 'auto'):
        assert torch.equal(draws_seen(x, batch_size), one_by_one)
    # What the seed of the draw alone gives, without the sampler.
    digest = input_digest(x)
    for index in (0, 22):
        generator = torch.Generator(device)
        generator.manual_seed(draw_seed(0, digest, ESTIMATION, index))
        assert torch.equal(NOISE.sample(x, generator), one_by_one[index])
    assert len({row.cpu().numpy().tobytes() for row in one_by_one}) == 23


@pytest.mark.parametrize('device', DEVICES)
def test_draws_are_gaussian_and_independent(device):
    x = torch.zeros(3, 64, 96, device=device)
    noise = NOISE.apply(x, NOISE.draw(x, generators(device, 20)))
    noise = torch.stack(list(noise)).double().flatten(1) / NOISE.sigma
    count = noise.shape[1]
    # Five standard errors of each moment, of the correlations and of the tail.
    assert float(noise.mean(dim=1).abs().max()) < 5 / count**0.5
    assert float((noise.square().mean(dim=1) - 1).abs().max()) < 5 * (2 / count) ** 0.5
    correlations = noise @ noise.T / count - torch.eye(20, device=device, dtype=torch.float64)
    correlations.fill_diagonal_(0)
    assert float(correlations.abs().max()) < 5 / count**0.5
    tail, share = float((noise.abs() > 1.959964).double().mean()), 0.05
    assert abs(tail - share) < 5 * (share * (1 - share) / noise.numel()) ** 0.5


IN_ANOTHER_PROCESS = """
import hashlib, sys
from tests.cuda.support import image_on
from tests.cuda.test_draws import draws_seen
print(hashlib.sha256(draws_seen(image_on(sys.argv[1]), 5).cpu().numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize('device', DEVICES)
def test_another_process_draws_the_same(device):
    command = [sys.executable, '-c', IN_ANOTHER_PROCESS, device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    here = draws_seen(image_on(device), 3).cpu().numpy().tobytes()
    assert done.stdout.split()[-1] == hashlib.sha256(here).hexdigest()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', PERTURBATIONS)
def test_every_perturbation_draws_on_the_device(device, name):
    law = PERTURBATIONS[name]()
    channels = 2 if name == 'SurrogateTransform' else 3
    x = 0.2 + 0.6 * torch.rand(channels, 8, 12, generator=torch.Generator().manual_seed(1))
    x = x.to(device)
    law.check(x)
    many = torch.stack(list(law.apply(x, law.draw(x, generators(device, 5)))))
    one_by_one = torch.stack([law.sample(x, g) for g in generators(device, 5)])
    assert many.device.type == device and many.dtype == x.dtype
    torch.testing.assert_close(many, one_by_one, rtol=1e-6, atol=1e-6)
    assert not torch.equal(many[0], many[1])

    def label(images):
        return (torch.stack(list(images)).mean(dim=1) > 0.5).long()

    settings = {'n0': 6, 'n': 30, 'num_classes': 2}
    votes = [sample_votes(label, x, law, batch_size=b, **settings) for b in (1, 8)]
    # Rounding may depend on the batch where transforms are made of matrix products.
    different = np.abs(votes[0].hits.astype(int) - votes[1].hits.astype(int))
    assert different.mean() <= 0.05


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', ['rotation', 'defocus_blur', 'gamma'])
def test_attack_sets_are_cut_and_counted_on_the_device(device, name):
    low, high = {'rotation': (-1, 1), 'defocus_blur': (0, 1), 'gamma': (0.95, 1.05)}[name]
    cells = TransformationCells(name, low, high, PooledNoise(2, 0.25), cells=5)
    x = 0.2 + 0.6 * torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(1))
    x = x.to(device)
    ours, cpu = cells.partition(x, 60), cells.partition(x.cpu(), 60)
    assert ours.starts == cpu.starts
    for one, other in zip(ours.tests, cpu.tests, strict=True):
        np.testing.assert_allclose(one.null_probabilities, other.null_probabilities, rtol=1e-4)

    def label(images):
        return (torch.stack(list(images)).mean(dim=1) > 0.5).long()

    settings = {'n0': 6, 'n': 60, 'num_classes': 2}
    votes = [sample_votes(label, x, cells, batch_size=b, **settings) for b in (1, 8)]
    # Rounding may depend on the batch where transforms are made of matrix products.
    assert (votes[0].hits != votes[1].hits).mean() <= 0.05


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('calls', [1, 4, 9])
@pytest.mark.parametrize('arguments', [{}, {'n0': 0}, {'groups': GROUPS}], ids=str)
def test_a_run_that_was_broken_off_continues_to_the_same_votes(device, calls, arguments):
    x = image_on(device)
    expected, kept, seen = votes_of(x, **arguments), [], []
    with pytest.raises(Stop):
        votes_of(x, stopping(calls), checkpointer=Checkpointer(kept.append, 1e9), **arguments)
    stored = Checkpoint.from_arrays({key: np.array(a) for key, a in kept[-1].to_arrays().items()})
    resumed = votes_of(
        x,
        lambda images: seen.extend(images) or segment(images),
        checkpointer=Checkpointer(kept.append, 1e9, stored),
        **{**arguments, 'batch_size': 7},
    )
    assert_same(resumed, expected)
    assert len(seen) == arguments.get('n0', 12) + 50 - 4 * calls


TWO = """
import sys
import numpy as np, torch.distributed as dist
from mmcert.sampling import ProcessGroup
from tests.cuda.support import arrays, runs

rank, store, out, device = int(sys.argv[1]), *sys.argv[2:]
dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
np.savez(f'{out}-{rank}.npz', **arrays(runs(device, processes=ProcessGroup.of_all_processes())))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize('device', DEVICES)
def test_two_processes_on_one_device_give_the_bytes_of_one(device, tmp_path):
    store, out = tmp_path / 'store', tmp_path / 'votes'
    finish([start(TWO, rank, store, out, device) for rank in (0, 1)])
    expected = arrays(runs(device))
    for rank in (0, 1):
        with np.load(f'{out}-{rank}.npz') as found:
            assert_same_bytes(dict(found), expected)


@pytest.fixture
def little_memory():
    """Lets torch have 600 MiB more of the device than it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    allowed = torch.cuda.memory_reserved() + 600 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def hungry(log):
    """A model that takes 64 MiB per draw, and more while it computes."""

    def run(images):
        log.append(len(images))
        batch = torch.stack(list(images))
        # Nothing is summed whose order could depend on the batch.
        wide = (batch[:, :1] - 0.5).repeat(1, 256, 1, 1)
        wide.mul_(torch.linspace(-1, 1, 256, device=batch.device)[:, None, None])
        return LogitMaps(wide[:, ::64, ::4, ::4], (256, 256))

    return run


@pytest.mark.cuda
@pytest.mark.parametrize('size', [64, 'auto'])
def test_running_out_of_memory_halves_the_batch_and_loses_no_vote(size, request):
    x = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(1)).cuda()
    settings = {'n0': 16, 'n': 300, 'num_classes': 4}
    expected = sample_votes(hungry([]), x, NOISE, batch_size=1, **settings)
    request.getfixturevalue('little_memory')
    log, batch = [], BatchSize(size)
    votes = sample_votes(hungry(log), x, NOISE, batch_size=batch, **settings)
    assert_same(votes, expected)
    assert batch.size <= 8
    if size == 64:
        assert max(log) == 16 and sum(log) > 316, 'memory never ran out'
    assert 0 < int(votes.hits.min()) < int(votes.hits.max()) <= 300


@pytest.mark.cuda
def test_not_even_one_draw_fits():
    x = image_on('cuda')

    def greedy(images):
        return torch.empty(2**50, dtype=torch.uint8, device='cuda')

    with pytest.raises(MemoryError, match='not even one draw'):
        votes_of(x, greedy)


@pytest.mark.cuda
def test_a_device_has_the_votes_of_the_cpu_up_to_chance():
    """Other random numbers, the same law: hits are binomial around the same probabilities."""
    hits = []
    for device in ('cpu', 'cuda'):
        votes = votes_of(image_on(device), n0=200, n=4000, batch_size=64)
        hits.append((votes.guess, votes.hits.astype(float)))
    same = hits[0][0] == hits[1][0]
    assert same.mean() > 0.9
    share = (hits[0][1] + hits[1][1]) / 8000
    error = np.sqrt(np.maximum(share * (1 - share), 1e-4) * 2 / 4000)
    assert (np.abs(hits[0][1] - hits[1][1])[same] / 4000 < 5.5 * error[same]).all()


def test_the_helpers_notice_a_difference():
    found = arrays(runs('cpu'))
    name = next(iter(found))
    changed = {**found, name: found[name].copy()}
    changed[name].flat[0] += 1
    with pytest.raises(AssertionError, match=name):
        assert_same_bytes(changed, found)
    assert list(itertools.islice(found, 2)) == ['plain-guess-0', 'plain-hits-0']
