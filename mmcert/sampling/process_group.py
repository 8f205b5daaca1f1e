"""Processes that share the draws of one input."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar('Value')

LAUNCHED = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
"""What torchrun tells each process of a job."""

PATIENCE = timedelta(days=7)
"""How long a process waits for another that still works; one that was killed is noticed at once."""


class ProcessGroupError(RuntimeError):
    """Another process of the group failed or is gone, so this one cannot go on."""


class ProcessGroup:
    """Process number ``rank`` of ``size`` that sample the same input, or one by itself."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def of_all_processes(cls) -> ProcessGroup:
        """All processes of the default process group; this one alone if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def gather(self, value: Value) -> list[Value]:
        """What each process has, in all of them."""
        return [self.broadcast(lambda: value, rank) for rank in range(self.size)]

    def require_same(self, known: Mapping[str, Any]) -> None:
        """Refuses processes that know something else; all of them raise.

        Raises:
            ProcessGroupError: If they do; the message says of what.
        """
        first, *others = self.gather(dict(known))
        for rank, other in enumerate(others, 1):
            differing = sorted(
                key for key in first.keys() | other.keys() if first.get(key) != other.get(key)
            )
            if differing:
                raise ProcessGroupError(
                    f'process {rank} has another {", ".join(differing)} than process 0, but all '
                    'must have the same: weights that are drawn at random need a seed, constants '
                    'of your own code must not differ (a time, say), nor files change meanwhile'
                )

    def share(self, start: int, count: int) -> range:
        """The draws of this process among ``count`` from number ``start``, in equal shares."""
        cuts = [start - (-count * rank // self.size) for rank in (self.rank, self.rank + 1)]
        return range(*cuts)

    def add_up(self, *tensors: torch.Tensor) -> None:
        """Replaces tensors by their sums over all processes.

        Raises:
            ProcessGroupError: If one of them is gone.
        """
        if self.size > 1:
            with _all_there():
                for tensor in tensors:
                    dist.all_reduce(tensor)

    def broadcast(self, ask: Callable[[], Value], source: int = 0) -> Value:
        """Calls a function in one process only, and returns its result in all.

        Raises:
            ProcessGroupError: In the others, if it raises there, so that nobody waits in vain; and
                if a process is gone.
        """
        if self.size == 1:
            return ask()
        answer: list[tuple[Value | None, str | None]] = [(None, None)]
        failure: Exception | None = None
        if self.rank == source:
            try:
                answer = [(ask(), None)]
            except Exception as raised:
                failure, answer = raised, [(None, f'{type(raised).__name__}: {raised}')]
        with _all_there():
            dist.broadcast_object_list(answer, src=source)
        if failure is not None:
            raise failure
        value, error = answer[0]
        if error is not None:
            raise ProcessGroupError(f'process {source} failed: {error}')
        return value  # type: ignore[return-value]

    @contextlib.contextmanager
    def fail_together(self, device: torch.device) -> Iterator[None]:
        """Runs a block of which each process does its own share; all wait at its end.

        The processes exchange tensors on ``device``.

        Raises:
            ProcessGroupError: If it failed in another process.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failed = torch.tensor([failure is not None], dtype=torch.int32, device=device)
        self.add_up(failed)
        if failure is not None:
            raise failure
        if bool(failed):
            raise ProcessGroupError(
                'another process failed while sampling; its own message says why'
            )


@contextlib.contextmanager
def joined_processes() -> Iterator[ProcessGroup]:
    """Joins the processes that torchrun has started; leaves them when all are done.

    On a machine with GPUs each process gets one of them as its current device.

    Raises:
        ValueError: If torchrun did not start this process.
    """
    if lacking := [name for name in LAUNCHED if name not in os.environ]:
        raise ValueError(
            f'{lacking[0]} is not set, as if torchrun had not started this process: start it as '
            'torchrun --nproc-per-node 2 -m -- mmcert ...'
        )
    backend = 'gloo'
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']) % torch.cuda.device_count())
        backend = 'cpu:gloo,cuda:nccl'
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        processes = ProcessGroup.of_all_processes()
        yield processes
        # None leaves before all are through: it would take the others with it.
        processes.add_up(torch.zeros(1))
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _all_there() -> Iterator[None]:
    """Names what a process that was killed looks like to the others: a lost connection."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition('. ')[0]
        raise ProcessGroupError(
            'another process of the group does not answer, as if it had been killed: start all of '
            f'them again with the same command ({reason})'
        ) from error
