"""How many draws go through the model at once: given, or found while sampling."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from mmcert.certify.checks import check_draws

AUTO = 'auto'
LARGEST = 64
"""Largest batch that is tried."""

SOME = 8
"""In place of a batch that is not known yet."""

WORTHWHILE = 0.97
"""A doubled batch must take less than this share of the time per draw to be kept."""

ROOM = 0.8
"""Share of the memory that a larger batch may be expected to take."""

OUT_OF_MEMORY = (
    'out of memory', 'not enough memory', "can't allocate memory", 'status_alloc_failed',
)  # fmt: skip
"""What the messages of such errors say, in lower case."""

Result = TypeVar('Result')


class BatchSize:
    """The number of draws per forward pass, fixed or found while sampling.

    'auto' begins with one draw and doubles as long as a draw gets cheaper and the memory seems to
    allow it; every pass counts, none is spent on the search. A pass that runs out of memory is
    repeated with half as many draws, also where the size was given.

    One object serves inputs of one size on one device: what it found holds for the next input.

    Args:
        size (int | str): Draws per pass, at least 1, or 'auto'.
        logger (logging.Logger | None): Gets a line when the size changes.

    Raises:
        ValueError: If the size is neither.
    """

    def __init__(self, size: int | str, logger: logging.Logger | None = None) -> None:
        self.searching = size == AUTO
        if isinstance(size, str) and not self.searching:
            raise ValueError(f"batch_size must be an integer of at least 1 or 'auto', got {size!r}")
        self.size = 1 if isinstance(size, str) else check_draws(size, 'batch_size')
        self.logger = logger or logging.getLogger('mmcert')
        self._times: list[float] = []
        self._before: tuple[int, float, int] | None = None

    @classmethod
    def of(cls, size: int | str | BatchSize, logger: logging.Logger | None = None) -> BatchSize:
        """A batch size of what was asked for; one that is given is shared."""
        return size if isinstance(size, BatchSize) else cls(size, logger)

    @property
    def expected(self) -> int:
        """How many draws a pass will have: where it is searched for, some."""
        return max(self.size, SOME) if self.searching else self.size

    def run(self, passes: Callable[[int], Result], device: torch.device, most: int) -> Result:
        """Runs a pass of at most ``most`` draws, halved where memory runs out.

        ``passes`` takes the number of draws, and what it returns is returned.

        Raises:
            MemoryError: If a single draw does not fit; the message says what may help.
        """
        while True:
            draws = min(self.size, most)
            started = time.perf_counter()
            try:
                result = passes(draws)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).split('\n', 1)[0]
            else:
                if self.searching and draws == self.size:
                    self._learn(device, time.perf_counter() - started)
                return result
            # Outside the except clause: the traceback holds the pass's tensors.
            if draws == 1:
                raise MemoryError(
                    f'not even one draw fits into memory ({reason}): use a smaller input scale '
                    '(`smoothing.scales`), half precision, or slide inference'
                )
            self.searching = False
            self.size = draws // 2
            self.logger.warning(
                '%d draws at once do not fit into memory: %d from now on', draws, self.size
            )
            if device.type == 'cuda':
                torch.cuda.empty_cache()

    def _learn(self, device: torch.device, seconds: float) -> None:
        """Decides about the next size once this one was timed twice."""
        if device.type == 'cuda':
            started = time.perf_counter()
            torch.cuda.synchronize(device)
            seconds += time.perf_counter() - started
        self._times.append(seconds / self.size)
        if len(self._times) < 2:
            return
        cost, (used, total) = min(self._times), memory(device)
        self._times = []
        before, self._before = self._before, (self.size, cost, used)
        # What the doubling to this size took, twice, is what the next one takes.
        growth = 2 * max(used - before[2], 0) if before is not None else used
        if before is not None and cost > WORTHWHILE * before[1]:
            self.size, self.searching = before[0], False
        elif self.size * 2 > LARGEST or used + growth > ROOM * total:
            self.searching = False
        else:
            self.size *= 2
            return
        self.logger.info('batch_size=auto: %d draws per forward pass', self.size)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in OUT_OF_MEMORY)


def memory(device: torch.device) -> tuple[int, int]:
    """The peak use of memory and its limit, in bytes.

    On the CPU those of the process, within the limits of its control group; on a CUDA device
    torch's.
    """
    if device.type == 'cuda':
        free, _ = torch.cuda.mem_get_info(device)
        return torch.cuda.max_memory_allocated(device), free + torch.cuda.memory_reserved(device)
    unit = 1 if sys.platform == 'darwin' else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
    for file in ('memory.max', 'memory/memory.limit_in_bytes'):
        path = Path('/sys/fs/cgroup') / file
        if path.exists() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return peak, min(limits)
