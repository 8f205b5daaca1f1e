"""Processes that share the draws of one input."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar('Value')


class Team:
    """One process of several that sample the same input, or one by itself.

    Args:
        rank (int): Number of this process, in [0, size).
        size (int): Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def of_all_processes(cls) -> Team:
        """All processes of the default process group; this one alone if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, start: int, count: int) -> range:
        """The draws of this process among ``count`` from number ``start``, in equal shares."""
        cuts = [start - (-count * rank // self.size) for rank in (self.rank, self.rank + 1)]
        return range(*cuts)

    def add_up(self, *tensors: torch.Tensor) -> None:
        """Replaces tensors by their sums over all processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def told(self, value: Value, source: int = 0) -> Value:
        """The value that one process has, by default the first one."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=source)
        return values[0]
