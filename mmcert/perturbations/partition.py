"""How the attack set of one input is cut into cells, and what is tested in each of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CellTest:
    """The pooled test of one cell; see ``mmcert.certify.pooled``.

    Attributes:
        centres (np.ndarray): Centres whose draws count, increasing, shape (J,).
        weights (np.ndarray): What a hit of a draw around each of them counts, integers, shape (J,).
        null_probabilities (np.ndarray): The largest probability of a hit of such a draw if the
            class has at most 1/2 somewhere in the cell, shape (J,).
        tail (np.ndarray): p-value of each weighted sum of hits.
    """

    centres: NDArray[np.int64]
    weights: NDArray[np.int64]
    null_probabilities: NDArray[np.float64]
    tail: NDArray[np.float64]


class Reading:
    """Where the content of each pixel may be found on images of some cells.

    Args:
        pixels (torch.Tensor): Numbers y W + x of pixels, shape (R, H, W), some repeated; -1 for
            any outside the frame.
    """

    def __init__(self, pixels: torch.Tensor) -> None:
        found = pixels.flatten(1)
        inside = (found >= 0).all(dim=0)
        self.first = torch.where(inside, found[0], 0)
        self.outside = (~inside).nonzero()[:, 0]
        others = [(inside & (more != self.first)).nonzero()[:, 0] for more in found[1:]]
        self.others = [
            (where, more[where])
            for where, more in zip(others, found[1:], strict=True)
            if len(where)
        ]

    def agreed(self, labels: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
        """Whether label maps (B, H, W) show the guess (H, W) at all of these pixels, (B, H, W)."""
        flat, wanted = labels.flatten(1), guess.flatten()
        # Map by map: several times faster on the CPU than an index of all at once.
        hit = torch.stack([one.index_select(0, self.first) for one in flat]) == wanted
        for where, pixels in self.others:
            hit[:, where] &= flat[:, pixels] == wanted[where]
        hit[:, self.outside] = False
        return hit.view(labels.shape)

    def to(self, device: torch.device) -> Reading:
        """The same on another device."""
        moved = object.__new__(Reading)
        moved.first, moved.outside = self.first.to(device), self.outside.to(device)
        moved.others = [(where.to(device), pixels.to(device)) for where, pixels in self.others]
        return moved


@dataclass(frozen=True, eq=False)
class Partition:
    """The cells of one input's attack set: fixed by the input before any draw.

    Attributes:
        inputs (torch.Tensor): The input.
        spec (Mapping): The ``spec`` of the perturbation.
        starts (Sequence[int]): Number of the first draw around each centre, and the number of all
            draws, shape (S + 1,).
        centres (np.ndarray): Parameters of the centres, shape (S, P), float64.
        tests (Sequence[CellTest]): One for each cell.
        table (np.ndarray): p-values that scores 0, 1, ... stand for, see ``pooled.score_table``.
        scores (Sequence[np.ndarray]): For each cell, the score of each weighted sum.
        apply_around (Callable): From a centre and the parameters of draws to perturbed inputs.
        readings (Sequence[Reading]): Where content moves: where to find it.
        reading_of (Sequence[int]): For each cell, which of the readings is its own.
        details (Mapping): What certificates say of it, as JSON values.
    """

    inputs: torch.Tensor
    spec: Mapping[str, Any]
    starts: Sequence[int]
    centres: NDArray[np.float64]
    tests: Sequence[CellTest]
    table: NDArray[np.float64]
    scores: Sequence[NDArray[np.int32]]
    apply_around: Callable[[int, torch.Tensor], torch.Tensor]
    readings: Sequence[Reading] = ()
    reading_of: Sequence[int] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def draws(self) -> int:
        """Number of draws n."""
        return self.starts[-1]

    def require(self, inputs: torch.Tensor, spec: Mapping[str, Any], draws: int | None) -> None:
        """Refuses, with a ValueError, another input, perturbation or number of draws."""
        same = inputs.dtype == self.inputs.dtype and torch.equal(inputs, self.inputs)
        if not same or spec != self.spec or draws != self.draws:
            raise ValueError(
                'the partition is one for another input or perturbation, or for '
                f'{self.draws} draws and not {draws}'
            )

    def centre_of(self, draw: int) -> int:
        """The centre that a draw is around."""
        return int(np.searchsorted(self.starts, draw, side='right')) - 1

    def split(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Draws start, ..., stop - 1 by centre: tuples (centre, first draw, end)."""
        pieces = []
        while start < stop:
            centre = self.centre_of(start)
            end = min(stop, self.starts[centre + 1])
            pieces.append((centre, start, end))
            start = end
        return pieces

    def apply(self, parameters: torch.Tensor, start: int) -> list[torch.Tensor]:
        """Perturbed inputs of consecutive draws, the first of them number ``start``."""
        found: list[torch.Tensor] = []
        for centre, first, end in self.split(start, start + len(parameters)):
            found += self.apply_around(centre, parameters[first - start : end - start])
        return found

    @cached_property
    def cells_of(self) -> list[dict[int, list[tuple[int, int]]]]:
        """For each centre: by reading, the cells that count its draws, with their weights."""
        found: list[dict[int, list[tuple[int, int]]]] = [{} for _ in self.starts[:-1]]
        for cell, test in enumerate(self.tests):
            reading = self.reading_of[cell] if self.readings else 0
            for centre, weight in zip(test.centres.tolist(), test.weights.tolist(), strict=True):
                found[centre].setdefault(reading, []).append((cell, weight))
        return found

    @cached_property
    def complete_at(self) -> NDArray[np.int64]:
        """For each cell, the number of draws after which its sum is complete."""
        ends = [self.starts[int(test.centres[-1]) + 1] for test in self.tests]
        return np.asarray(ends, dtype=np.int64)

    @cached_property
    def digest(self) -> bytes:
        """Tells this partition from others: draws, centres, weights, p-values and readings.

        All that decides what is drawn and what counts as a hit. Counts that are not complete, and
        those of other processes, go on under the same digest alone.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(np.asarray(self.starts, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.centres, dtype=np.float64).tobytes())
        for test, scores in zip(self.tests, self.scores, strict=True):
            digest.update(np.stack([test.centres, test.weights]).astype(np.int64).tobytes())
            digest.update(np.asarray(scores, dtype=np.int64).tobytes())
        digest.update(np.asarray(self.reading_of, dtype=np.int64).tobytes())
        for reading in self.readings:
            for pixels in (reading.first, reading.outside, *itertools.chain(*reading.others)):
                digest.update(pixels.cpu().numpy().tobytes() + b'|')
        return digest.digest()

    def to_dict(self) -> dict[str, Any]:
        """What the p-values follow from, as JSON values: enough to compute the table anew.

        ``draws`` has the number of draws around each centre. For each cell, ``centres`` says which
        of them count, ``weights`` what a hit of each counts, and ``null_probabilities`` how
        probable one is at most.
        """
        return {
            'draws': np.diff(self.starts).tolist(),
            'centres': [test.centres.tolist() for test in self.tests],
            'weights': [test.weights.tolist() for test in self.tests],
            'null_probabilities': [test.null_probabilities.tolist() for test in self.tests],
        }

    @property
    def smallest(self) -> float:
        """The smallest p-value that any outcome can have."""
        return max(float(test.tail[-1]) for test in self.tests)
