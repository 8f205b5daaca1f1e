"""Jobs of ``mmcert certify --model``, killed and started again; run by ``test_command.py``.

The processes of the first shard divide its images, those of the second share the draws of each.
"""

import os
import random
import sys
from pathlib import Path
from unittest import mock

import torch.distributed as dist

from mmcert.commands import main as mmcert_main
from tests.engine.shard_jobs import free_port
from tests.forks import KILLED, Job

KILLS = 2
"""How often each job of two processes is killed."""


def run_of(words, out, size=1):
    """The command as a process of a job; gives what it does."""
    port = free_port()
    words = ['mmcert', 'certify', *words, '--out', str(out)]

    def run(rank, arm):
        log = os.open(f'{out}-{rank}.log', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        initialise = dist.init_process_group

        def begin(*given, **options):
            initialise(*given, **options)
            arm()

        if size > 1:
            words.extend(['--launcher', 'pytorch'])
            variables = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': size}
            variables |= {'MASTER_ADDR': 'localhost', 'MASTER_PORT': port}
            os.environ.update({key: str(value) for key, value in variables.items()})
        with (
            mock.patch.object(sys, 'argv', words),
            mock.patch.object(dist, 'init_process_group', begin),
        ):
            sys.exit(mmcert_main.main())

    return run


def main(folder, *words):
    """One run over all images; then both shards, one after the other, until they are through."""
    assert Job(1, run_of(words, folder / 'whole')).wait() == [0]
    chance, killed = random.Random(1), 0
    for shard in ('1/2', '2/2'):
        shared = ['--shard', shard, '--distribute', 'images' if shard == '1/2' else 'draws']
        for attempt in range(KILLS + 1):
            victim = chance.randrange(2) if attempt < KILLS else None
            job = run_of([*words, *shared], folder / 'shared', size=2)
            codes = Job(2, job, victim, chance.uniform(0.05, 0.4)).wait()
            if not any(codes):
                break
            assert KILLED in codes and 0 not in codes, codes
            killed += 1
        assert not any(codes), codes
    print(f'killed {killed} times')


if __name__ == '__main__':
    main(Path(sys.argv[1]), *sys.argv[2:])
