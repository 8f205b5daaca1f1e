"""What all counts share: those of different images add up, and IoU is a ratio of two of them."""

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

AnyCounts = TypeVar('AnyCounts', bound='Counts')

SHARED = {'shared': True}
"""Metadata of a field that is the same for all images."""


class Counts:
    """A base for frozen dataclasses of counts; ``None`` in a field means "not counted"."""

    def __add__(self: AnyCounts, other: AnyCounts) -> AnyCounts:
        """Adds the counts of other images, field by field."""
        sums: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours is None or theirs is None:
                sums[field.name] = None
            elif isinstance(ours, frozenset):
                sums[field.name] = ours | theirs
            elif not field.metadata.get('shared'):
                sums[field.name] = ours + theirs
        return replace(self, **sums)  # type: ignore[type-var]


def intersection_and_union(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two counts that each class's IoU is made of.

    Args:
        confusion (np.ndarray): Components by ground truth class (row) and predicted class (column),
            shape (C, C), or (C, C + 1) with a last column for abstentions, which are false
            negatives of their class and false positives of none.

    Returns:
        tuple: Intersection and union, each of shape (C,).
    """
    intersection = np.diagonal(confusion)
    predicted = confusion[:, : len(confusion)].sum(axis=0)
    return intersection, confusion.sum(axis=1) + predicted - intersection


def iou(intersection: NDArray[Any], union: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union, in [0, 1]; NaN where the union is 0: the class is on neither side.

    >>> iou(np.array([2, 0, 0]), np.array([4, 3, 0])).tolist()
    [0.5, 0.0, nan]
    """
    with np.errstate(invalid='ignore'):
        return np.asarray(intersection / union, dtype=np.float64)


def mean_of_present(values: NDArray[np.float64]) -> float:
    """The mean without the NaNs; NaN if there is nothing else."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float('nan')


def ratio(part: Any, whole: Any) -> float:
    """A share; NaN if the whole is 0."""
    return float(part) / float(whole) if whole else float('nan')
