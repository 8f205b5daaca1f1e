"""What all counts share: those of different images add up, and IoU is a ratio of two of them."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any, Generic, TypeVar

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


class PackedCounts(Generic[AnyCounts]):
    """Counts of one image in little memory: of each array only what is not 0.

    Most classes do not occur in an image, and those of a data set are kept until all are pooled.

    >>> import numpy as np
    >>> from mmcert.metrics import ConfusionAccumulator
    >>> label = np.array([3, 3, 140])
    >>> counts = ConfusionAccumulator(label, label, num_classes=150).count(label == 3)
    >>> packed = PackedCounts(counts)
    >>> packed.unpack().certified.shape, int(packed.unpack().certified[3, 3])
    ((150, 151), 2)

    Args:
        counts (Counts): What to pack; ``unpack`` gives equal counts back.
    """

    def __init__(self, counts: AnyCounts) -> None:
        self._kind = type(counts)
        self._fields = {
            field.name: _packed(getattr(counts, field.name))
            for field in fields(counts)  # type: ignore[arg-type]
        }

    def unpack(self) -> AnyCounts:
        """The counts."""
        return self._kind(**{name: value() for name, value in self._fields.items()})


def _packed(value: Any) -> Callable[[], Any]:
    """What gives a field back."""
    if isinstance(value, Counts):
        return PackedCounts(value).unpack
    if not isinstance(value, np.ndarray):
        return partial(_itself, value)
    places = np.flatnonzero(value).astype(np.min_scalar_type(value.size))
    return partial(_array, value.shape, places, value.ravel()[places])


def _itself(value: Any) -> Any:
    return value


def _array(
    shape: tuple[int, ...], places: NDArray[np.unsignedinteger], values: NDArray[Any]
) -> NDArray[Any]:
    found = np.zeros(shape, dtype=values.dtype)
    found.flat[places] = values
    return found


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
