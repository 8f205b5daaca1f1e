"""Intersection over union, from counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    num_classes = len(confusion)
    intersection = np.diagonal(confusion)
    union = confusion.sum(axis=1) + confusion[:, :num_classes].sum(axis=0) - intersection
    return intersection, union


def iou(intersection: NDArray[Any], union: NDArray[Any]) -> NDArray[np.float64]:
    """Their ratio, in [0, 1]; NaN where the union is 0: a class that is on neither side.

    >>> import numpy as np
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
    """Their ratio; NaN if the whole is 0."""
    return float(part) / float(whole) if whole else float('nan')
