"""Checkpoints of a run over one input."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What the first ``done`` draws of a stage have counted, from draw ``start``.

    ``arrays`` hold the counts, and the guess that they belong to.
    """

    stage: int
    start: int
    done: int
    arrays: Arrays

    def to_arrays(self) -> Arrays:
        """All of it as arrays, for a file."""
        return {**self.arrays, '_position': np.array([self.stage, self.start, self.done])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Checkpoint:
        """Reads what ``to_arrays`` made; a ``KeyError`` if these are not such arrays."""
        stage, start, done = (int(value) for value in arrays['_position'])
        counts = {key: array for key, array in arrays.items() if key != '_position'}
        return cls(stage, start, done, counts)


class Checkpointer:
    """Stores checkpoints of a run every so often, and when it breaks off.

    Args:
        store (Callable): Stores a checkpoint.
        seconds (float): How often, at least; 0 stores after every batch.
        found (Checkpoint | None): Where to continue.
    """

    def __init__(
        self, store: Callable[[Checkpoint], None], seconds: float, found: Checkpoint | None = None
    ) -> None:
        self.store, self.seconds, self.found = store, seconds, found
        self._last = time.monotonic()

    def take(self, stage: int, start: int) -> Checkpoint | None:
        """The checkpoint to continue from, once, if it is of this stage and first draw."""
        found = self.found
        if found is None or (found.stage, found.start) != (stage, start):
            return None
        self.found = None
        return found

    def save(self, current: Callable[[], Checkpoint], *, if_due: bool = False) -> None:
        """Stores the run, at once or if it is time."""
        if not if_due or time.monotonic() - self._last >= self.seconds:
            self.store(current())
            self._last = time.monotonic()
