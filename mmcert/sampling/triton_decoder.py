"""Label maps and hits from coarse scores on a CUDA device, in one kernel.

The arithmetic is that of torch's own bilinear kernel, in float32; where two scores are equal up to
rounding, the compilers' freedom to fuse multiplications and additions may decide between them.
"""

import torch
import triton
import triton.language as tl

from mmcert.sampling.logit_maps import LogitMaps

BLOCK = 256
"""Pixels of one program."""


@triton.jit
def _source(position, scale, points, align_corners: tl.constexpr):
    """Lower point, step to the upper one and its weight, of positions after resizing."""
    if align_corners:
        source = position.to(tl.float32) * scale
    else:
        source = tl.maximum((position.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    lower = tl.minimum(source.to(tl.int32), points - 1)
    step = tl.where(lower < points - 1, 1, 0)
    return lower, step, source - lower.to(tl.float32)


@triton.jit
def _read(
    scores, guess, out, batch, classes, grid_height, grid_width, height, width, top, left,
    scale_y, scale_x, threshold,
    align_corners: tl.constexpr, binary: tl.constexpr, count: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Labels one block of pixels in all draws; writes the labels, or adds up the hits."""
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < height * width
    row, row_step, low_weight = _source(pixel // width + top, scale_y, grid_height, align_corners)
    column, column_step, right = _source(pixel % width + left, scale_x, grid_width, align_corners)
    up_weight, left_weight = 1.0 - low_weight, 1.0 - right
    a = row * grid_width + column
    b = a + column_step
    c = a + row_step * grid_width
    d = c + column_step
    plane = grid_height * grid_width
    if count:
        wanted = tl.load(guess + pixel, mask=inside, other=-1).to(tl.int32)
        hits = tl.zeros((block,), dtype=tl.int32)
    # Pointers move from plane to plane: their sums may exceed 32 bits.
    base = scores
    place = out + pixel
    for _ in range(batch):
        best = tl.full((block,), float('-inf'), dtype=tl.float32)
        label = tl.zeros((block,), dtype=tl.int32)
        for index in range(classes):
            above = left_weight * tl.load(base + a, mask=inside, other=0.0).to(tl.float32)
            above += right * tl.load(base + b, mask=inside, other=0.0).to(tl.float32)
            below = left_weight * tl.load(base + c, mask=inside, other=0.0).to(tl.float32)
            below += right * tl.load(base + d, mask=inside, other=0.0).to(tl.float32)
            value = up_weight * above + low_weight * below
            if binary:
                label = tl.where(1.0 / (1.0 + tl.exp(-value)) > threshold, 1, 0)
            else:
                label = tl.where(value > best, index, label)
                best = tl.maximum(best, value)
            base += plane
        if count:
            hits += tl.where(label == wanted, 1, 0)
        else:
            tl.store(place, label.to(out.dtype.element_ty), mask=inside)
            place += height * width
    if count:
        hits += tl.load(out + pixel, mask=inside, other=0)
        tl.store(out + pixel, hits, mask=inside)


def suits(maps: LogitMaps) -> bool:
    """Whether the kernel reads these maps: any resizing of at most 32,767 classes."""
    return maps.scores.dtype != torch.float64 and maps.scores.shape[1] < 2**15


def decode_labels(maps: LogitMaps) -> torch.Tensor:
    """Label maps (B, H, W) as of ``eager_labels``: uint8 up to 256 classes, else int16."""
    dtype = torch.uint8 if maps.scores.shape[1] <= 256 else torch.int16
    labels = torch.empty((len(maps), *maps.shape), dtype=dtype, device=maps.scores.device)
    _launch(maps, labels, labels, count=False)
    return labels


def add_hits(hits: torch.Tensor, maps: LogitMaps, guess: torch.Tensor) -> None:
    """Adds the number of maps whose label is the guess, pixel by pixel.

    ``hits`` (H, W), int32, is changed in place; it and ``guess`` (H, W), integers, are contiguous.
    """
    _launch(maps, guess, hits, count=True)


def _launch(maps: LogitMaps, guess: torch.Tensor, out: torch.Tensor, *, count: bool) -> None:
    scores = maps.scores.contiguous()
    batch, classes, grid_height, grid_width = scores.shape
    top, left, height, width = maps.region
    _read[(triton.cdiv(height * width, BLOCK),)](
        scores, guess, out, batch, classes, grid_height, grid_width, height, width, top, left,
        _scale(grid_height, maps.size[0], maps.align_corners),
        _scale(grid_width, maps.size[1], maps.align_corners),
        maps.threshold or 0.0,
        align_corners=maps.align_corners, binary=maps.threshold is not None, count=count,
        block=BLOCK,
    )  # fmt: skip


def _scale(points: int, size: int, align_corners: bool) -> float:
    """Points per position; a Python number that float32 holds exactly, as torch's kernel does."""
    if align_corners:
        ratio = torch.tensor(float(points - 1)) / max(size - 1, 1)
    else:
        ratio = torch.tensor(float(points)) / size
    return float(ratio)
