"""Jobs of several processes, which may be killed, forked from a program that has imported all.

pytest has threads of its own, with which forks do not go. So a test runs a module of this folder as
a program (``run_program``), and the program forks.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
KILLED = -signal.SIGKILL
HANGS = 90.0
"""Seconds after which processes count as hanging that wait for one which is gone."""


def run_program(module, *arguments):
    """Runs a module as a program with one thread; returns what it printed."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


class Job:
    """Processes that run ``task(rank, arm)``.

    Number ``victim`` is killed so many seconds after it calls ``arm()``. A member of a group does
    when the group stands: before that it is the launcher that ends the others.
    """

    def __init__(self, size, task, victim=None, seconds=0.0):
        self.victim = victim
        fork = multiprocessing.get_context('fork')
        self.processes = [
            fork.Process(target=task, args=(rank, _bomb(seconds if rank == victim else None)))
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    @property
    def ended(self):
        """Whether all processes have ended, or one was killed."""
        codes = [process.exitcode for process in self.processes]
        return None not in codes or KILLED in codes

    def wait(self):
        """The exit codes; the others must not outlive a process that was killed for long."""
        while not self.ended:
            time.sleep(0.02)
        deadline = time.monotonic() + HANGS
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        assert None not in codes, f'processes hang beside one that was killed: {codes}'
        return codes


def _bomb(seconds):
    """What arms the end of a process, or does nothing."""

    def arm():
        if seconds is not None:
            timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()

    return arm
