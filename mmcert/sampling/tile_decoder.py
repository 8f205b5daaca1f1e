"""Label maps from coarse scores on the CPU: interpolates only what neighbours leave open."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from mmcert.sampling.logit_maps import LogitMaps, resized_scores

UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
"""Largest relative error of a rounding. torch's kernels interpolate by at most 5 of them after each
other (two weights, a score, three additions), and so does the code here."""

ROUNDING = {dtype: 20 * unit for dtype, unit in UNIT.items()}
"""How far apart two scores must be, in units of the largest one, for their order to be the same
in every way to interpolate: the scores of two ways differ by at most 10 roundings each."""

EXACT = {dtype: 5.1 * (unit + 2.0**-53) for dtype, unit in UNIT.items()}
"""How far a score may lie from that in double precision, in units of the interpolated absolute
values."""

CHUNK = 1 << 19
"""Interpolated scores that are held at once: few enough for the caches."""

FEW = 4
"""Classes that are interpolated in tiles where no more of them can win: nearly all tiles."""


class TileDecoder:
    """Reads label maps on the CPU without resizing the scores.

    Bilinear interpolation is monotone: a class whose score is the largest at the four corners of a
    tile of the grid is the largest in the whole tile, in floating point as well. So only tiles
    whose corners disagree are interpolated, and there only the classes that can win. Scores that
    lie closer together than rounding can explain are compared in double precision, and where that
    leaves it open, as ``eager_labels`` does. So the labels are the same, bit for bit.

    Args:
        maps (LogitMaps): B maps of C scores, float32 or float64, finite; see ``suits``.
        peak (float): Largest absolute score.
    """

    def __init__(self, maps: LogitMaps, peak: float) -> None:
        scores = maps.scores.contiguous()
        self.maps, self.scores = maps, scores
        self.slack, self.low = ROUNDING[scores.dtype] * peak, -4 * peak - 1
        (height, width), (top, left, rows, columns) = scores.shape[-2:], maps.region
        self.rows = axis(height, maps.size[0], maps.align_corners, top, rows, scores.dtype)
        self.columns = axis(width, maps.size[1], maps.align_corners, left, columns, scores.dtype)
        self._by_channel = resizes_by_channel(
            tuple(scores.shape[1:]),
            maps.size,
            maps.align_corners,
            scores.dtype,
            torch.get_num_threads(),
        )

    @staticmethod
    def suits(maps: LogitMaps) -> bool:
        """Whether these maps can be read so: several classes, enlarged on both sides."""
        _, classes, height, width = maps.scores.shape
        return (
            maps.threshold is None
            and maps.scores.device.type == 'cpu'
            and 1 < classes <= 256
            and min(height, width) > 1
            and maps.size[0] > height
            and maps.size[1] > width
        )

    def labels(self) -> torch.Tensor:
        """Label maps, shape (B, H, W), uint8."""
        batch, _, height, width = self.scores.shape
        top, sole = self._tops(self.scores.flatten(2))
        top, sole = top.view(batch, height, width), sole.view(batch, height, width)
        corner = top[:, :-1, :-1]
        pure = sole[:, :-1, :-1].clone()
        for there in (np.s_[:, 1:, :-1], np.s_[:, :-1, 1:], np.s_[:, 1:, 1:]):
            pure &= sole[there]
            pure &= top[there] == corner
        result = corner.index_select(1, self.rows.tile).index_select(2, self.columns.tile)
        blocks = pure.index_select(1, self.rows.block_tile)
        blocks = blocks.index_select(2, self.columns.block_tile)
        self._label_mixed(result, torch.stack((~blocks).nonzero().unbind(1)))
        return result

    def _label_mixed(self, result: torch.Tensor, place: torch.Tensor) -> None:
        """Labels the blocks of pixels whose corners disagree: draw, row, column, shape (3, M)."""
        classes, width = self.scores.shape[1], self.scores.shape[3]
        draw, row, column = place
        flat = self.scores.transpose(0, 1).flatten(1)
        point = self.rows.block_tile[row] * width + self.columns.block_tile[column]
        point += draw * self.scores[0, 0].numel()
        corners = torch.stack(
            [flat.index_select(1, point + step) for step in (0, 1, width, width + 1)]
        )
        # A class below what another one has at all corners cannot win anywhere in the tile.
        lowest = corners.amin(dim=0).amax(dim=0) - self.slack
        possible = corners.amax(dim=0) >= lowest
        many = possible.sum(dim=0) > FEW
        if classes > FEW and not bool(many.all()):
            few = (~many).nonzero()[:, 0]
            order = torch.arange(classes, 0, -1, dtype=torch.int16)[:, None]
            rank = possible[:, few] * order
            names = classes - rank.t().topk(FEW, dim=1).values.t().long()
            absent = names == classes
            names.masked_fill_(absent, 0)
            chosen = corners[:, :, few].gather(1, names.expand(4, -1, -1))
            chosen.masked_fill_(absent, self.low)
            self._interpolate(result, place[:, few], chosen, names)
            rest = many.nonzero()[:, 0]
            place, corners = place[:, rest], corners[:, :, rest]
        every = torch.arange(classes)[:, None].expand(-1, place.shape[1])
        self._interpolate(result, place, corners, every)

    def _interpolate(
        self, result: torch.Tensor, place: torch.Tensor, corners: torch.Tensor, names: torch.Tensor
    ) -> None:
        """Labels the pixels of some blocks, chunk by chunk.

        ``place`` (3, M) says draw, row and column of each block, ``corners`` (4, k, M) the scores
        of k classes at its corners, ``names`` (k, M) which classes these are.
        """
        rows, columns, (height, width) = self.rows, self.columns, self.maps.shape
        flat = result.view(-1)
        pixels = len(rows.positions) * len(columns.positions)
        size = max(1, CHUNK // (corners.shape[1] * pixels))
        for first in range(0, place.shape[1], size):
            part = slice(first, first + size)
            draw, row, column = place[:, part]
            a, b, c, d = corners[:, :, part]
            left, right = (weight[:, None, column] for weight in columns.weights)
            upper, lower = (weight[:, None, None, row] for weight in rows.weights)
            # Rows and columns of pixels within a block, classes, blocks: (P, Q, k, M).
            values = (a * left).addcmul_(b, right) * upper
            values.addcmul_((c * left).addcmul_(d, right), lower)
            label, sole = self._tops(values)
            # Where several may win the sum means nothing: these are settled below.
            index = label.flatten(0, 1).long().clamp_(max=len(names) - 1)
            label = names[:, part].gather(0, index)
            pixel = rows.positions[:, None, row] * width + columns.positions[None, :, column]
            pixel += draw * (height * width)
            flat[pixel.flatten()] = label.flatten().to(torch.uint8)
            if not bool(sole.all()):
                where = (~sole).nonzero().unbind(1)
                weights = (upper, lower), (left, right)
                self._settle(
                    flat, pixel[where], where, corners[:, :, part], weights, names[:, part]
                )

    def _settle(
        self,
        result: torch.Tensor,
        pixel: torch.Tensor,
        where: tuple[torch.Tensor, ...],
        corners: torch.Tensor,
        weights: tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]],
        names: torch.Tensor,
    ) -> None:
        """Labels pixels whose best scores are closer than rounding.

        ``where`` says row, column and block of each. In double precision most of them show which
        class wins, however the reference rounds. The others are resized as the reference does.
        """
        row, column, block = where
        rows = torch.stack([weight[row, 0, 0, block] for weight in weights[0]]).double()
        columns = torch.stack([weight[column, 0, block] for weight in weights[1]]).double()
        parts = corners[:, :, block] * (rows[:, None] * columns).flatten(0, 1)[:, None]
        dtype = self.scores.dtype
        # Results below the smallest normal number may be off by as much.
        value, doubt = parts.sum(dim=0), parts.abs().sum(dim=0) * EXACT[dtype]
        doubt += 8 * torch.finfo(dtype).tiny
        near = (value + doubt >= (value - doubt).amax(dim=0)).t()
        classes = names[:, block].t()
        winner = near.to(torch.uint8).argmax(dim=1, keepdim=True)
        result[pixel] = classes.gather(1, winner)[:, 0].to(torch.uint8)
        unclear = near.sum(dim=1) > 1
        pixel, near, classes = pixel[unclear], near[unclear], classes[unclear]
        size = self.maps.shape.numel()
        draws = pixel // size
        for draw in draws.unique().tolist():
            mine = draws == draw
            contenders = classes[mine][near[mine]].unique()
            if not self._by_channel:
                contenders = torch.arange(self.scores.shape[1])
            one = self.maps.with_scores(self.scores[draw : draw + 1, contenders])
            scores = resized_scores(one).flatten(2)[0, :, pixel[mine] % size]
            result[pixel[mine]] = contenders[scores.argmax(dim=0)].to(torch.uint8)

    def _tops(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The class that is the largest and whether it is beyond doubt, of scores (..., C, M)."""
        best = scores.amax(dim=-2, keepdim=True)
        near = (scores >= best.sub_(self.slack)).view(torch.uint8)
        number = torch.arange(scores.shape[-2], dtype=torch.uint8)[:, None]
        sole = near.sum(dim=-2, dtype=torch.uint8) == 1
        return (near * number).sum(dim=-2, dtype=torch.uint8), sole


@dataclass(frozen=True, eq=False)
class Axis:
    """Positions of pixels along one axis, in blocks of neighbours between the same two points.

    ``tile`` (H,) holds the lower point of each position, ``positions`` (P, G) the positions of each
    block, ``block_tile`` (G,) its lower point, and ``weights`` those of the lower and the upper
    point there, each of shape (P, G). Blocks are padded to the longest one by repeating positions
    of theirs.
    """

    tile: torch.Tensor
    positions: torch.Tensor
    block_tile: torch.Tensor
    weights: tuple[torch.Tensor, torch.Tensor]


@lru_cache(maxsize=64)
def axis(
    points: int, size: int, align_corners: bool, first: int, count: int, dtype: torch.dtype
) -> Axis:
    """One axis of an enlargement by ``torch.nn.functional.interpolate``, on the CPU.

    From ``points`` (at least 2) of the coarse grid to ``size`` positions, of which ``count`` from
    ``first`` are wanted; ``dtype`` is that of the weights.
    """
    # The weights as the library itself has them: those of each point are the resized unit vector.
    unit = torch.eye(points, dtype=dtype)[None, :, :, None]
    resized = F.interpolate(unit, size=(size, 1), mode='bilinear', align_corners=align_corners)
    weights = resized[0, :, first : first + count, 0].t()
    tile = (weights > 0).to(torch.uint8).argmax(dim=1).clamp(max=points - 2)
    # Tiles at the ends are longer, where positions outside the grid are drawn to its border.
    longest = math.ceil((size - 1) / (points - 1)) if align_corners else math.ceil(size / points)
    starts, ends = [], []
    for start, stop in _runs(tile.tolist()):
        cuts = [*range(start, stop, longest), stop]
        starts += cuts[:-1]
        ends += cuts[1:]
    steps = torch.arange(max(b - a for a, b in zip(starts, ends, strict=True)))[:, None]
    positions = torch.minimum(torch.tensor(starts) + steps, torch.tensor(ends) - 1)
    every = torch.arange(count)
    lower, upper = weights[every, tile], weights[every, tile + 1]
    return Axis(tile, positions, tile[starts], (lower[positions], upper[positions]))


@lru_cache(maxsize=64)
def resizes_by_channel(
    shape: tuple[int, int, int],
    size: tuple[int, int],
    align_corners: bool,
    dtype: torch.dtype,
    threads: int,
) -> bool:
    """Whether ``interpolate`` gives a channel the same bits whichever others are beside it.

    It has several kernels, which round otherwise, and may choose between them by the number of
    channels (torch 2 does where the result is small, or with one thread). Tried out for one, two
    and three channels of scores (C, h, w); the answer is kept for each number of ``threads``.
    """
    scores = torch.randn((1, *shape), dtype=dtype, generator=torch.Generator().manual_seed(0))
    every = F.interpolate(scores, size, mode='bilinear', align_corners=align_corners)
    parts = (
        F.interpolate(scores[:, :count], size, mode='bilinear', align_corners=align_corners)
        for count in (1, 2, 3)
    )
    return all(torch.equal(part, every[:, : part.shape[1]]) for part in parts)


def _runs(values: list[int]) -> list[tuple[int, int]]:
    """Start and end of each run of equal values."""
    cuts = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
    return list(zip([0, *cuts], [*cuts, len(values)], strict=True))
