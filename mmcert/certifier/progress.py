"""How far a test has come, and how long it will still take."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

SECONDS = 30.0
"""How often the draws of one input are reported while it takes long."""


@dataclass
class _Draws:
    """Draws of one input: those of the first call, all of them, and when calls came."""

    first: int
    started: float
    done: int
    last: float
    reported: float

    @property
    def seconds_per_draw(self) -> float:
        """Of the draws after the first call, which may be about those of an earlier run."""
        return (self.last - self.started) / max(self.done - self.first, 1)


class Progress:
    """Times the inputs that are sampled; those whose votes are found in the store cost nothing.

    ``batches`` is the length of the data loader, ``draws`` the most draws of an input, ``word``
    what an input is called, and ``unit`` what batches are called. ``logger`` gets a line every
    ``SECONDS`` while an input takes long. The ``processes`` share the draws of each input, each
    with batches of its own. ``clock`` tells the time in seconds.
    """

    def __init__(
        self,
        batches: int,
        draws: int,
        word: str,
        logger: logging.Logger,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        unit: str = 'batches',
    ) -> None:
        self.batches, self.draws, self.word, self.unit = batches, draws, word, unit
        self.logger, self.processes, self.clock = logger, processes, clock
        self._batches_done = self._inputs_done = self._sampled = 0
        self._seconds = 0.0
        self._batch_started = clock()
        self._current: dict[str, _Draws] = {}

    def on_draws(self, name: str, done: int) -> None:
        """Counts draws of an input: those since the last call, or those of an earlier run."""
        now, draws = self.clock(), self._current.get(name)
        if draws is None or draws.done >= self.draws:
            self._current[name] = _Draws(done, now, done, now, now)
            return
        draws.done, draws.last = draws.done + done, now
        if now - draws.reported >= SECONDS and draws.done < self.draws:
            draws.reported, each = now, draws.seconds_per_draw
            self.logger.info(
                f'{name}: {draws.done}/{self.draws} draws, {1 / each:.1f} per second, about '
                f'{_duration((self.draws - draws.done) * each)} left for this one'
            )

    def batch_done(self, inputs: int) -> str:
        """Counts a batch; returns batches done, seconds per input and time left, for a log."""
        now = self.clock()
        self._batches_done += 1
        self._inputs_done += inputs * self.processes
        for draws in self._current.values():
            # An input that goes on from an earlier run takes less time here than a whole one.
            here = (now - self._batch_started) / len(self._current)
            self._seconds += max(here, draws.done * draws.seconds_per_draw)
            self._sampled += 1
        self._batch_started = now
        self._current.clear()
        words = f'certified {self._batches_done}/{self.batches} {self.unit}'
        if not self._sampled:
            return f'{words} from stored votes'
        each = self._seconds / self._sampled
        per_batch = self._inputs_done / self._batches_done
        left = each * per_batch * (self.batches - self._batches_done)
        return f'{words}, {each:.1f} s per {self.word}, about {_duration(left)} left'


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
