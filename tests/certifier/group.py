"""A group of processes that certify a few images of a plain model; run by ``test_processes.py``."""

import random
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from mmcert.certifier import CertificationPlan, Certifier
from mmcert.certify import CertifySettings, Hierarchy
from mmcert.certify.planning import StoppingRule
from mmcert.perturbations import Enumeration, GaussianNoise
from mmcert.sampling import LogitMaps, ProcessGroup, SamplingSettings
from mmcert.sampling.process_group import ProcessGroupError
from tests.forks import KILLED, Job

KILLS = 6
ALONE = 3
"""Exit code of a process that another one has left alone."""
SHAPES = ((3, 12, 16), (3, 9, 20), (3, 12, 16))
LEVELS = Hierarchy([{'both': ['one', 'two']}], ['one', 'two', 'three'])


def plan_of(n0=12, n=181, **options):
    """A plan with batches of 7, whose draws no number of processes divides evenly."""
    selection = 'same_draws' if n0 == 0 else 'auto'
    return CertificationPlan(
        GaussianNoise(0.25),
        CertifySettings(0.6, 0.01, 'holm', selection=selection),
        SamplingSettings(n0=n0, n=n, num_classes=3, batch_size=7),
        save_seconds=0.02,
        **options,
    )


PLANS = {
    'fixed': plan_of(),
    'levels': plan_of(hierarchy=LEVELS),
    'same-draws': plan_of(n0=0, n=75),
    'looks': plan_of(n=None, stopping=StoppingRule(270, 0.0)),
    'enumeration': CertificationPlan(
        Enumeration('rotation', torch.linspace(-3, 3, 61)),
        None,
        SamplingSettings(n0=0, n=None, num_classes=3, batch_size=7),
        save_seconds=0.02,
    ),
}


def certify_all(folder, processes, pause=0.0):
    """Certifies all images under all plans; a pass takes at least ``pause`` seconds."""
    images = torch.Generator().manual_seed(1)
    weights = torch.rand(3, 3, 1, 1, generator=images)
    inputs = [torch.rand(*shape, generator=images) for shape in SHAPES]

    def segment(batch):
        time.sleep(pause)
        scores = torch.nn.functional.conv2d(torch.stack(list(batch)), weights)
        return LogitMaps(scores - scores.mean((2, 3), keepdim=True), tuple(batch[0].shape[1:]))

    for name, plan in PLANS.items():
        store = plan.open_store(folder / name, 'these weights')
        certifier = Certifier(plan, store=store, processes=processes)
        for image in inputs:
            certifier.certify(segment, image)


def certify_alone(rank, arm, folder):
    """The same as a process by itself."""
    certify_all(folder, ProcessGroup())


def certify_in_group(rank, arm, size, folder, store, pause=0.0):
    """The same as a process of a group."""
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=size)
    arm()
    processes = ProcessGroup.of_all_processes()
    try:
        certify_all(folder, processes, pause)
        # None leaves before all are through.
        processes.add_up(torch.zeros(1))
    except ProcessGroupError as error:
        print(error)
        sys.exit(ALONE)
    dist.destroy_process_group()


def sizes(folder):
    """Groups of 2, 4 and 8."""
    for size in (2, 4, 8):
        store = folder / f'group-{size}'
        task = partial(certify_in_group, size=size, folder=folder / str(size), store=store)
        assert Job(size, task).wait() == [0] * size


def kills(folder):
    """Groups of 3 of which a random process is killed at a random time, until one is through."""
    chance, killed = random.Random(0), 0
    for attempt in range(100):
        task = partial(
            certify_in_group, size=3, folder=folder / 'killed', store=folder / f'group-{attempt}',
            pause=0.004,
        )  # fmt: skip
        victim = chance.randrange(3) if killed < KILLS else None
        codes = Job(3, task, victim, chance.uniform(0.05, 0.3)).wait()
        if codes == [0, 0, 0]:
            break
        assert victim is not None and codes[victim] == KILLED, codes
        assert sorted(codes) == [KILLED, ALONE, ALONE], codes
        killed += 1
    print(f'killed {killed} times')


if __name__ == '__main__':
    results = Path(sys.argv[1])
    assert Job(1, partial(certify_alone, folder=results / '1')).wait() == [0]
    sizes(results)
    kills(results)
