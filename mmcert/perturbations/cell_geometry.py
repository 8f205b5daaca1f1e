"""Where the cells of an attack set lie, and how far their images are apart."""

import functools
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from mmcert.perturbations.noise import GaussianNoise
from mmcert.perturbations.partition import Reading
from mmcert.perturbations.surrogate import SurrogateTransform
from mmcert.transformations import AboutCentre, Transformation

SPACING = 0.06
"""Wanted distance of neighbouring centres, in standard deviations of the noise: where the draws
allow it, more centres would not make the tests sharper."""

FEWEST_DRAWS = 8
"""Draws around each centre, at least, on average: moving an image costs time as well."""

END_DEPTH, END_SHARE = 1.0, 1.9
"""Cells at the ends have neighbours on one side alone. Centres within so many standard deviations
of an end get so many times the draws of others."""

FARTHEST = 2.5
"""Centres farther from a cell than so many standard deviations do not count in it."""

PATH_POINTS = 65
"""Points of an axis of the attack set at which its length is measured."""

CONSTANTS = 32
"""Pieces of an axis with a Lipschitz constant each."""

SLACK = 0.05
"""How far, in standard deviations, the bound of a cell's extent may exceed the largest distance
that was found, unless that took too many points."""

MOST_POINTS = (24, 81)
"""Points of a cell at which distances are computed, about: of one parameter, and of more."""

READING_PATH = 0.05
"""Cells share a reading while content moves no farther than so many pixels."""

MOST_VALUES = 2**27
"""Coordinates that are kept at a time, 1 GB."""

Noise = GaussianNoise | SurrogateTransform
"""What can smooth: it has ``coordinates`` in which it is standard normal, and ``apply_at``."""

Pieces = tuple[torch.Tensor, torch.Tensor]
"""Ends of pieces of an axis, and a Lipschitz constant in each of them."""


class CellGeometry:
    """The cells of a box of parameters for one image; see ``TransformationCells``.

    Lengths and distances are l2 in coordinates in which the noise is standard normal, computed in
    double precision.

    Args:
        transformation (Transformation): What moves the image.
        noise (Noise): What smooths it.
        image (torch.Tensor): Shape (1, C, H, W), float64, in [0, 1] units.
        ends (torch.Tensor): Lower and upper ends of the parameters, shape (2, P), float64.
    """

    def __init__(
        self,
        transformation: Transformation,
        noise: Noise,
        image: torch.Tensor,
        ends: torch.Tensor,
    ) -> None:
        self.transformation, self.noise, self.image, self.ends = transformation, noise, image, ends
        self.num_coordinates = int(noise.coordinates(image).shape[1])

    def moved(self, parameters: torch.Tensor) -> torch.Tensor:
        """The image transformed by parameters (N, P), shape (N, C, H, W)."""
        images = self.image.expand(len(parameters), -1, -1, -1)
        return self.transformation.transform(images, parameters.to(images.device))

    def at(self, parameters: torch.Tensor) -> torch.Tensor:
        """Coordinates of the image transformed by parameters (N, P), shape (N, D)."""
        return self.noise.coordinates(self.moved(parameters))

    def cells(
        self, draws: int, counts: int | Sequence[int] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, NDArray[np.float64], dict[str, Any]]:
        """Cuts the box for a number of draws.

        Returns:
            tuple: Lower ends, upper ends and centres of the cells, each (S, P), the last parameter
            varying fastest; the shares of the draws around each centre, (S,); and details, as JSON
            values.
        """
        paths = [self._path(axis) for axis in range(self.ends.shape[1])]
        lengths = [float(path[-1, 1]) for path in paths]
        numbers = self._numbers(lengths, draws) if counts is None else np.ravel(counts).tolist()
        edges = [_equal_parts(path, count) for path, count in zip(paths, numbers, strict=True)]
        low, high = (
            torch.cartesian_prod(*(axis[part] for axis in edges)).reshape(-1, len(edges))
            for part in (slice(None, -1), slice(1, None))
        )
        profiles = []
        for length, count in zip(lengths, numbers, strict=True):
            place = (np.arange(count) + 0.5) * length / count
            near = np.minimum(place, length - place) < END_DEPTH
            profiles.append(np.where(near, END_SHARE, 1.0))
        shares = functools.reduce(np.multiply.outer, profiles).ravel()
        return low, high, (low + high) / 2, shares, {'cells': numbers, 'path_lengths': lengths}

    def _path(self, axis: int) -> torch.Tensor:
        """Values of a parameter and the length of the path up to there, (PATH_POINTS, 2).

        Measured at the middle of the other parameters. Any cells would be valid.
        """
        low, high = self.ends[:, axis].tolist()
        places = torch.linspace(low, high, PATH_POINTS, dtype=torch.float64)
        before, lengths = None, [0.0]
        for place in places:
            parameter = self.ends.mean(dim=0)
            parameter[axis] = place
            now = self.at(parameter[None])
            if before is not None:
                lengths.append(lengths[-1] + float((now - before).norm()))
            before = now
        # Where nothing moves, parts of equal width.
        still = torch.linspace(0, 1e-9, PATH_POINTS, dtype=torch.float64)
        return torch.stack([places, torch.tensor(lengths, dtype=torch.float64) + still], dim=1)

    def _numbers(self, lengths: Sequence[float], draws: int) -> list[int]:
        wanted = np.array([max(length / SPACING, 1.0) for length in lengths])
        most = max(draws // FEWEST_DRAWS, 1)
        if wanted.prod() > most:
            # An axis of less than one cell leaves the others more.
            for _ in wanted:
                free = wanted > 1
                rest = most / wanted[~free].prod()
                shrink = (rest / wanted[free].prod()) ** (1 / max(free.sum(), 1))
                wanted[free] = np.maximum(wanted[free] * shrink, 1.0)
        return [max(int(count), 1) for count in wanted]

    def extents(
        self, low: torch.Tensor, high: torch.Tensor, centres: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """Bounds of sup ||z(T_xi x) - z(T_a x)|| over each cell, a its centre, shape (S,).

        In a box, whose corners c have the distances D_c from the centre, no distance exceeds the
        mean over the corners of D_c + sum_k L_k |xi_k - c_k|: mean(D_c) + sum_k L_k width_k / 2. A
        cell is cut at its centre, and then on, at the box of the largest bound, until that hardly
        exceeds the largest distance found.

        Returns:
            tuple[torch.Tensor, float]: The bounds, and the largest absolute value that the
            transformed image has anywhere in the attack set, at least 1.
        """
        peaks = [float(self.moved(row[None]).abs().max()) for row in centres]
        if torch.equal(low, high):
            return torch.zeros(len(centres), dtype=torch.float64), max([1.0, *peaks])
        constants = [self._constants(axis) for axis in range(low.shape[1])]
        rows = list(zip(low.tolist(), high.tolist(), centres.tolist(), strict=True))
        bounds = [self._extent(constants, *row) for row in rows]
        # No value moves by more than the whole image.
        farthest = [
            sum(
                max(_way(*c, *s) for s in ((a, m), (m, b)))
                for c, a, b, m in zip(constants, *row, strict=True)
            )
            for row in rows
        ]
        moves = max(farthest) / self.noise.lipschitz
        return torch.tensor(bounds, dtype=torch.float64), max([1.0, *peaks]) + moves

    def _constants(self, axis: int) -> Pieces:
        """Lipschitz constants in one parameter, piece by piece, whatever the others are."""
        low, high = self.ends[0].clone(), self.ends[1].clone()
        span = float(low[axis]), float(high[axis])
        ends = torch.linspace(*span, CONSTANTS + 1, dtype=torch.float64)
        constants = []
        for first, last in itertools.pairwise(ends):
            low[axis], high[axis] = first, last
            bounds = self.transformation.lipschitz(self.image, low, high)
            constant = float(bounds[0, axis]) * self.noise.lipschitz
            if not math.isfinite(constant):
                raise ValueError(
                    f'{self.transformation.name} has no finite Lipschitz constant in '
                    f'{self.transformation.parameters[axis].name} from {float(first):g} to '
                    f'{float(last):g}'
                )
            constants.append(constant)
        return ends, torch.tensor(constants, dtype=torch.float64)

    def _extent(
        self,
        constants: Sequence[Pieces],
        low: Sequence[float],
        high: Sequence[float],
        centre: Sequence[float],
    ) -> float:
        middle = self.at(torch.tensor([centre], dtype=torch.float64))

        @functools.cache
        def far(*corner: float) -> float:
            there = torch.tensor([corner], dtype=torch.float64)
            return float((self.at(there) - middle).norm())

        def bounded(*sides: tuple[float, float]) -> tuple[Any, ...]:
            ways = [_way(*constants[axis], *side) for axis, side in enumerate(sides)]
            mean = np.mean([far(*corner) for corner in itertools.product(*sides)])
            return -(float(mean) + sum(ways) / 2), ways.index(max(ways)), sides

        halves = [((a, c), (c, b)) for a, b, c in zip(low, high, centre, strict=True)]
        heap = [bounded(*sides) for sides in itertools.product(*halves)]
        heapq.heapify(heap)
        while far.cache_info().currsize < MOST_POINTS[len(halves) > 1]:
            corners = {c for _, _, sides in heap for c in itertools.product(*sides)}
            if -heap[0][0] <= max(far(*corner) for corner in corners) + SLACK:
                break
            _, axis, sides = heapq.heappop(heap)
            cut = sum(sides[axis]) / 2
            for side in ((sides[axis][0], cut), (cut, sides[axis][1])):
                heapq.heappush(heap, bounded(*sides[:axis], side, *sides[axis + 1 :]))
        return -heap[0][0]

    def reached(
        self, centres: torch.Tensor, extents: torch.Tensor, added: float, *, alone: bool
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """For each cell: the centres whose draws may count in it, and the q of those draws.

        ``added`` is added to all distances; with ``alone`` a cell has its own centre only.
        """
        found: list[dict[int, float]] = [{cell: float(e)} for cell, e in enumerate(extents)]
        for one, other, distance in [] if alone else self._distances(centres):
            for cell, centre in ((one, other), (other, one)):
                reach = distance + float(extents[cell])
                if reach <= FARTHEST:
                    found[cell][centre] = reach
        return [
            (np.array(sorted(near)), ndtr(np.array([near[j] for j in sorted(near)]) + added))
            for near in found
        ]

    def _distances(self, centres: torch.Tensor) -> Iterator[tuple[int, int, float]]:
        """Distances of pairs of centres that are near each other, by inner products.

        The bound of what the products lose to rounding is part of them. A pair that is left out
        makes tests less sharp, and no more.
        """
        values = max(self.num_coordinates, 1)
        block = max(8, min(64, MOST_VALUES // (8 * values)))
        lost = values * torch.finfo(torch.float64).eps
        origin = self.at(self.ends.mean(dim=0)[None])
        kept, first = origin[:0], 0
        for start in range(0, len(centres), block):
            rows = centres[start : start + block]
            kept = torch.cat([kept, *(self.at(row[None]) - origin for row in rows)])
            squares = kept.square().sum(dim=1)
            sums = squares[:, None] + squares[None, -len(rows) :]
            gram = sums - 2 * kept @ kept[-len(rows) :].T
            distances = (gram.clamp(min=0) + lost * sums).sqrt().cpu()
            near = distances <= FARTHEST
            for (row, column), distance in zip(
                near.nonzero().tolist(), distances[near].tolist(), strict=True
            ):
                if first + row < start + column:
                    yield first + row, start + column, distance
            used = near.any(dim=1).nonzero()[:, 0]
            # On a line, centres that are far from all of this block stay so.
            drop = int(used[0]) if len(centres[0]) == 1 else 0
            drop = max(drop, len(kept) - max(MOST_VALUES // values, block))
            kept, first = kept[drop:], first + drop

    def readings(self, low: torch.Tensor, high: torch.Tensor) -> tuple[list[Reading], list[int]]:
        """Where content is found, for runs of cells in which it hardly moves.

        Returns:
            tuple[list[Reading], list[int]]: The readings, and which of them each cell has; empty if
            content stays.
        """
        if not isinstance(self.transformation, AboutCentre):
            return [], []
        readings: list[Reading] = []
        reading_of: list[int] = []
        begin, (height, width) = 0, self.image.shape[-2:]
        while begin < len(low):
            end = begin + 1
            while end < len(low):
                run = slice(begin, end + 1)
                if self._content_moves(low[run], high[run]) > READING_PATH:
                    break
                end += 1
            first, last = low[begin:end].amin(dim=0), high[begin:end].amax(dim=0)
            pixels = self.transformation.reached(first, last, height, width)
            reading_of += [len(readings)] * (end - begin)
            readings.append(Reading(pixels))
            begin = end
        return readings, reading_of

    def _content_moves(self, low: torch.Tensor, high: torch.Tensor) -> float:
        """How far the content of a corner moves over some cells, about, in pixels."""
        assert isinstance(self.transformation, AboutCentre)
        height, width = self.image.shape[-2:]
        corner = torch.tensor([[width - 1], [height - 1]], dtype=torch.float64) / 2
        maps, _ = self.transformation.affine(torch.stack([low.amin(dim=0), high.amax(dim=0)]))
        first, last = maps @ corner
        return float((first - last).norm())


def _equal_parts(path: torch.Tensor, count: int) -> torch.Tensor:
    """Ends of parts of an axis, of equal length of the path, shape (count + 1,), float64."""
    places, lengths = path.numpy().T
    wanted = np.linspace(lengths[0], lengths[-1], count + 1)
    edges = torch.from_numpy(np.interp(wanted, lengths, places))
    edges[0], edges[-1] = float(places[0]), float(places[-1])
    return edges


def _way(ends: torch.Tensor, constants: torch.Tensor, low: float, high: float) -> float:
    """The integral of constants that hold piece by piece, from low to high."""
    covered = (ends[1:].clamp(max=high) - ends[:-1].clamp(min=low)).clamp(min=0)
    return float((covered * constants).sum())
