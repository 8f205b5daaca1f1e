"""Jobs of three shards that are killed at random and started again; run by ``test_kills.py``.

The jobs of two shards are of two processes: in one they divide the images, in the other they share
the draws of each image.
"""

import os
import random
import socket
import sys
import time
from pathlib import Path
from unittest import mock

import torch.distributed as dist

from tests.forks import KILLED, Job
from tests.openmmlab import tool_module

KILLS = 3
"""How often each job is killed."""
SIZES = {'1/3': 2, '2/3': 2, '3/3': 1}
"""The processes of the job of each shard."""
DRAWS = '2/3'
"""The shard whose processes share the draws."""


def free_port():
    """A port that nobody listens to."""
    with socket.socket() as one:
        one.bind(('localhost', 0))
        return one.getsockname()[1]


def run_of(folder, results, name, *options, size=1):
    """``tools/test.py`` as a process of a job; gives what it does."""
    job = folder / 'jobs' / name
    argv = [
        'tools/test.py', folder / 'config.py', folder / 'model.pth', '--work-dir', job,
        '--launcher', 'pytorch' if size > 1 else 'none', '--cfg-options',
        f'smoothing.out_dir={results}', *options,
    ]  # fmt: skip
    port = free_port()

    def run(rank, arm):
        log = os.open(f'{job}-{rank}.log', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        variables = {
            'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': size, 'MASTER_ADDR': 'localhost',
            'MASTER_PORT': port,
        }  # fmt: skip
        os.environ.update({key: str(value) for key, value in variables.items()})
        initialise = dist.init_process_group

        def begin(**options):
            initialise(**options)
            arm()

        if size == 1:
            arm()
        with (
            mock.patch.object(sys, 'argv', list(map(str, argv))),
            mock.patch.object(dist, 'init_process_group', begin),
        ):
            sys.exit(tool_module('tools/test.py').main())

    job.parent.mkdir(exist_ok=True)
    return run


def main(folder):
    """One run over all images, then the jobs side by side."""
    assert Job(1, run_of(folder, folder / 'whole', 'whole')).wait() == [0]
    chance = random.Random(1)
    jobs, kills = {}, dict.fromkeys(SIZES, 0)
    to_start = set(SIZES)
    while to_start or jobs:
        for shard in sorted(to_start):
            size = SIZES[shard]
            options = [f'smoothing.shard={shard}'] + ['smoothing.distribute=draws'] * (
                shard == DRAWS
            )
            task = run_of(folder, folder / 'shared', shard[0], *options, size=size)
            victim = chance.randrange(size) if kills[shard] < KILLS else None
            jobs[shard] = Job(size, task, victim, chance.uniform(1.0, 7.0))
        to_start.clear()
        for shard in [shard for shard, job in jobs.items() if job.ended]:
            codes = jobs.pop(shard).wait()
            if any(codes):
                assert KILLED in codes and 0 not in codes, (shard, codes)
                kills[shard] += 1
                to_start.add(shard)
        time.sleep(0.02)
    print(f'killed {sum(kills.values())} times')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
