"""Class scores on a head's own grid, and how labels are read from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class LogitMaps:
    """Class scores on a coarse grid, which a base model may return in place of label maps.

    They stand for the label maps that ``eager_labels`` makes of them: it resizes the scores
    bilinearly, cuts out a window, and gives each pixel the class with the largest score, ties to
    the lowest (with one score per pixel: class 1 where its sigmoid exceeds the threshold). The
    sampler finds the same labels without building the resized scores.

    >>> scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # One map, 2 classes, 1 x 2 points.
    >>> eager_labels(LogitMaps(scores, size=(2, 4))).tolist()
    [[[0, 0, 1, 1], [0, 0, 1, 1]]]

    Attributes:
        scores (torch.Tensor): Shape (B, C, h, w), finite floating point numbers (a class is masked
            by a very negative one, not by -inf, which interpolates to NaN); anything but float32
            and float64 is converted to float32 before it is resized.
        size (tuple[int, int]): Height and width after resizing.
        align_corners (bool): As for ``torch.nn.functional.interpolate``.
        window (tuple[int, int, int, int] | None): Top, left, height and width of what is
            labelled; None is all of it.
        threshold (float | None): For binary heads, C = 1: the threshold, in (0, 1).
    """

    scores: torch.Tensor
    size: tuple[int, int]
    align_corners: bool = False
    window: tuple[int, int, int, int] | None = None
    threshold: float | None = None

    def __len__(self) -> int:
        """Number of maps B."""
        return len(self.scores)

    @property
    def region(self) -> tuple[int, int, int, int]:
        """The window, also where it is all."""
        return self.window or (0, 0, *self.size)

    @property
    def shape(self) -> torch.Size:
        """Shape of one label map."""
        return torch.Size(self.region[2:])

    def with_scores(self, scores: torch.Tensor) -> LogitMaps:
        """Other scores, read in the same way."""
        return replace(self, scores=scores)


def resized_scores(maps: LogitMaps) -> torch.Tensor:
    """The scores at the size of the label maps, shape (B, C, H, W)."""
    # Other memory formats have kernels of their own, which round otherwise.
    scores = maps.scores.contiguous()
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    if tuple(scores.shape[-2:]) != maps.size:
        scores = F.interpolate(
            scores, size=maps.size, mode='bilinear', align_corners=maps.align_corners
        )
    top, left, height, width = maps.region
    return scores[..., top : top + height, left : left + width]


def logits_of(maps: LogitMaps) -> torch.Tensor:
    """Logits (B, K, H, W) at the size of the label maps, float32; the largest is the label.

    Of one score and a threshold they are those of background and foreground.
    """
    scores = resized_scores(maps).float()
    if maps.threshold is None:
        return scores
    return of_two(scores, maps.threshold)


def of_two(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Logits of background and foreground, by those of the foreground, (B, 1, H, W)."""
    scores = scores - math.log(threshold / (1 - threshold))
    return torch.cat([torch.zeros_like(scores), scores], dim=1)


def eager_labels(maps: LogitMaps) -> torch.Tensor:
    """The label maps (B, H, W) by their definition, int64: the reference for every faster way."""
    scores = resized_scores(maps)
    if maps.threshold is None:
        return scores.argmax(dim=1)
    return (scores[:, 0].sigmoid() > maps.threshold).long()
