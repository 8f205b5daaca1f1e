"""Additive counts of how certificates meet labels, and the rates made of them.

Every rate is a fraction in [0, 1] and pooled over the data set: the counts of all images are added
before anything is divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.binomial import histogram
from mmcert.certify.hierarchy import Hierarchy
from mmcert.metrics.counts import Counts, intersection_and_union, iou, mean_of_present, ratio
from mmcert.metrics.information_gain import HierarchyCounts, count_levels
from mmcert.metrics.worst_case import worst_iou, worst_mean_iou

IGNORE_INDEX = 255
"""Label of the components that have no ground truth, by the custom of the data sets."""

BOUNDARY_DISTANCE = 5
"""Components with a label boundary fewer than so many rows and columns away count as near one."""


@dataclass(frozen=True, eq=False)
class ConfusionCounts(Counts):
    """Counts over some images; those of different images add up.

    >>> one = ConfusionAccumulator([0, 0, 1, 1], [0, 0, 1, 0], 2).count([True, True, False, True])
    >>> both = one + ConfusionAccumulator([1], [1], 2).count([True])
    >>> both.images, both.components, both.abstained
    (2, 5, 1)
    >>> rates = both.rates()
    >>> round(rates['certAcc'], 3), round(rates['mIoU'], 3), rates['abstain']
    (0.6, 0.5, 0.2)

    Attributes:
        certified (np.ndarray): Labelled components by ground truth class (row) and certified
            class (column), with a last column for abstentions, int64, shape (C, C + 1).
        smoothed (np.ndarray): The same for the smoothed model's guess class, shape (C, C).
        base (np.ndarray | None): The same for the base model without noise, shape (C, C).
        components (int): All components, those without a label included.
        abstained (int): How many of all components were not certified.
        images (int): Number of images.
        allowance (int): How many of the certificates may be wrong by the procedure's guarantee:
            the sum of k - 1.
        near (np.ndarray | None): ``certified``, over the components near a label boundary only; of
            labels on a grid, shape (H, W).
        levels (HierarchyCounts | None): Counts by the levels of a hierarchy.
    """

    certified: NDArray[np.int64]
    smoothed: NDArray[np.int64]
    base: NDArray[np.int64] | None
    components: int
    abstained: int
    images: int = 1
    allowance: int = 0
    near: NDArray[np.int64] | None = None
    levels: HierarchyCounts | None = None

    def __add__(self, other: ConfusionCounts) -> ConfusionCounts:
        """Adds the counts of other images."""
        if self.certified.shape != other.certified.shape:
            raise ValueError(
                f'counts over {self.num_classes} and {other.num_classes} classes do not add up'
            )
        if self.images == 0 or other.images == 0:
            return other if self.images == 0 else self
        return super().__add__(other)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.certified)

    @property
    def labelled(self) -> int:
        """How many components have a label."""
        return int(self.certified.sum())

    def rates(self) -> dict[str, float]:
        """The metrics, fractions in [0, 1]; NaN where there is nothing to divide by.

        Returns:
            dict: ``certAcc`` (certified and correct, of all labelled components; abstaining counts
            as wrong), ``mIoU`` (mean certified IoU, abstentions being false negatives, over the
            classes that occur), ``mIoU_paper`` (the same with classes that do not occur counted
            as 0, as in SegCertify's tables), ``worst_mIoU`` (the least mIoU if all that is not
            certified is given any class, see ``worst_case``; the least accuracy is ``certAcc``),
            ``abstain`` (of all components), ``abstain_valid`` (of the labelled ones),
            ``certified_share`` (of all components), ``smoothed_aAcc``, ``smoothed_mIoU`` (the
            smoothed model without certification), with a base model ``base_aAcc``, ``base_mIoU``,
            and with a hierarchy those of ``HierarchyCounts``. Where the procedure allows k - 1
            wrong certificates, so many count as abstained, in each rate where it hurts that rate
            most; ``worst_mIoU`` is not known then.
        """
        labelled = self.labelled
        iou_sum, occurring = self._certified_iou_sum()
        abstained = min(self.abstained + self.allowance, self.components)
        rates = {
            'certAcc': ratio(self._correct(self.certified), labelled),
            'mIoU': ratio(iou_sum, occurring),
            'mIoU_paper': ratio(iou_sum, self.num_classes),
            'worst_mIoU': self._worst(self.certified),
            'abstain': ratio(abstained, self.components),
            'abstain_valid': ratio(self._abstained(self.certified), labelled),
            'certified_share': ratio(self.components - abstained, self.components),
            'smoothed_aAcc': ratio(np.trace(self.smoothed), labelled),
            'smoothed_mIoU': mean_of_present(iou(*intersection_and_union(self.smoothed))),
        }
        if self.base is not None:
            rates['base_aAcc'] = ratio(np.trace(self.base), labelled)
            rates['base_mIoU'] = mean_of_present(iou(*intersection_and_union(self.base)))
        if self.levels is not None:
            rates |= self.levels.rates(self.allowance)
        return rates

    def by_region(self) -> dict[str, dict[str, float]]:
        """Certified accuracy, worst-case mIoU and abstention near to and away from boundaries.

        Returns:
            dict: ``near`` and ``away``, each with ``share`` (of the labelled components),
            ``certAcc``, ``worst_mIoU`` and ``abstain_valid``; empty if boundaries are not known.
            All of the allowance of wrong certificates is charged to each region, as in ``rates``.
        """
        if self.near is None:
            return {}
        whole = self.certified.sum()
        return {
            name: {
                'share': ratio(region.sum(), whole),
                'certAcc': ratio(self._correct(region), region.sum()),
                'worst_mIoU': self._worst(region),
                'abstain_valid': ratio(self._abstained(region), region.sum()),
            }
            for name, region in (('near', self.near), ('away', self.certified - self.near))
        }

    def per_class(self) -> dict[str, list[float]]:
        """Rates of each class, by their names.

        Returns:
            dict: ``certIoU``, ``certAcc``, ``worst_IoU`` (the least IoU that this class alone can
            be brought to) and ``abstain_valid``. An allowance of wrong certificates is not taken
            away.
        """
        with np.errstate(invalid='ignore'):
            labelled = self.certified.sum(axis=1)
            rates = {
                'certIoU': iou(*intersection_and_union(self.certified)).tolist(),
                'certAcc': (np.diagonal(self.certified) / labelled).tolist(),
            }
            if self.num_classes > 1:
                rates['worst_IoU'] = worst_iou(self.certified).tolist()
            rates['abstain_valid'] = (self.certified[:, -1] / labelled).tolist()
        return rates

    def _correct(self, confusion: NDArray[np.int64]) -> int:
        """Certified and correct components, less the allowance."""
        return max(int(np.trace(confusion)) - self.allowance, 0)

    def _abstained(self, confusion: NDArray[np.int64]) -> int:
        """Components that are not certified, and the allowance."""
        return min(int(confusion[:, -1].sum()) + self.allowance, int(confusion.sum()))

    def _worst(self, confusion: NDArray[np.int64]) -> float:
        if self.allowance or self.num_classes < 2:
            return float('nan')
        return worst_mean_iou(confusion)

    def _certified_iou_sum(self) -> tuple[float, int]:
        """Sum of the certified IoU, and over how many classes."""
        hit, union = intersection_and_union(self.certified)
        present = union > 0
        hit, union = hit[present], union[present]
        total = float((hit / union).sum())
        # A wrong certificate costs a class 1 / union: the smallest unions lose theirs first.
        left = self.allowance
        for index in np.argsort(union) if left else ():
            taken = min(left, hit[index])
            total -= taken / union[index]
            left -= taken
        return max(total, 0.0), len(hit)


class ConfusionAccumulator:
    """Counts one image under one certificate or several.

    >>> image = ConfusionAccumulator(label=[0, 1, 1], guess=[0, 1, 0], num_classes=2)
    >>> counts = image.count([True, False, True])
    >>> counts.certified.tolist()  # rows: ground truth; columns: certified class, then abstained
    [[1, 0, 0], [1, 0, 1]]

    Args:
        label (np.ndarray | None): Ground truth, classes in [0, C) or ``ignore_index``; None if
            there is none, which counts every component as unlabelled.
        guess (np.ndarray): Class of the smoothed model, in [0, C), the shape of ``label``.
        num_classes (int): Number of classes C.
        base (np.ndarray | None): Prediction of the base model without noise, same shape.
        ignore_index (int): Label of components without ground truth.
        hierarchy (Hierarchy | None): The hierarchy that certificates are to be counted by.

    Raises:
        ValueError: If shapes differ or a class is out of range.
    """

    def __init__(
        self,
        label: ArrayLike | None,
        guess: ArrayLike,
        num_classes: int,
        *,
        base: ArrayLike | None = None,
        ignore_index: int = IGNORE_INDEX,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        self.guess = guess = np.asarray(guess)
        self.hierarchy = hierarchy
        check_classes(guess, num_classes, 'guess')
        truth = np.full(guess.shape, ignore_index) if label is None else np.asarray(label)
        if truth.shape != guess.shape:
            raise ValueError(
                f'label and guess must have one shape, got {truth.shape} and {guess.shape}'
            )
        self.num_classes = num_classes
        self.near = near_boundary(truth).ravel() if truth.ndim == 2 else None
        flat = truth.ravel()
        self.valid = flat != ignore_index
        if not ((flat >= 0) & (flat < num_classes) >= self.valid).all():
            check_classes(flat[self.valid], num_classes, f'label (ignore index {ignore_index})')
        # Unlabelled components get a row of their own, C, that is dropped in the end.
        self.width = num_classes + 1
        dtype = np.min_scalar_type(2 * self.width * self.width)
        self.truth = np.full(flat.shape, num_classes, dtype=dtype)
        np.copyto(self.truth, flat, where=self.valid, casting='unsafe')
        self.pairs = self._pairs(guess)
        self.near_pairs = self.pairs if self.near is None else self.pairs[self.near]
        self.smoothed = self._confusion(self.pairs)[:, :num_classes]
        self.base: NDArray[np.int64] | None = None
        if base is not None:
            predicted = np.asarray(base)
            check_classes(predicted, num_classes, 'base prediction')
            self.base = self._confusion(self._pairs(predicted))[:, :num_classes]

    def _pairs(self, predicted: NDArray[np.integer]) -> NDArray[np.integer]:
        """Truth * width + prediction of each component."""
        pairs = self.truth * self.truth.dtype.type(self.width)
        return np.add(pairs, predicted.ravel(), out=pairs, casting='unsafe')

    def _confusion(self, index: NDArray[np.integer]) -> NDArray[np.int64]:
        """Counts of truth * width + column, labelled rows only, shape (C, C + 1)."""
        counts = histogram(index, self.width * self.width - 1)
        return counts.reshape(self.width, self.width)[: self.num_classes]

    def count(
        self,
        certified: ArrayLike,
        allowance: int = 0,
        level: ArrayLike | None = None,
        groups: Sequence[ArrayLike] = (),
    ) -> ConfusionCounts:
        """Counts one certificate.

        Args:
            certified (np.ndarray): True where the guess is certified, the shape of the guess.
            allowance (int): How many certificates the procedure allows to be wrong.
            level (np.ndarray | None): With a hierarchy: the certified level of each component, see
                ``Certificate.level``, the shape of the guess.
            groups (Sequence[np.ndarray]): The group of each coarser level, same shape.

        Raises:
            ValueError: If the shape differs.
        """
        mask = np.asarray(certified, dtype=bool).ravel()
        if mask.shape != self.valid.shape:
            raise ValueError(
                f'guess and mask must have one shape, got {self.valid.shape} and {mask.shape} '
                '(flattened)'
            )
        levels, near = None, self.near
        if self.hierarchy is not None and level is not None:
            truth = np.minimum(self.truth, self.num_classes - 1).astype(np.intp)
            choices = [np.ravel(choice) for choice in (self.guess, *groups)]
            levels = count_levels(truth, self.valid, np.ravel(level), choices, self.hierarchy)
        return ConfusionCounts(
            certified=self._decided(self.pairs, mask),
            smoothed=self.smoothed,
            base=self.base,
            components=mask.size,
            abstained=int(mask.size - np.count_nonzero(mask)),
            allowance=allowance,
            near=None if near is None else self._decided(self.near_pairs, mask[near]),
            levels=levels,
        )

    def _decided(self, pairs: NDArray[np.integer], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Ground truth by certified class, with abstentions in the last column."""
        size = self.width * self.width
        both = histogram(pairs + mask * pairs.dtype.type(size), 2 * size - 1)
        table = both.reshape(2, self.width, self.width)[:, : self.num_classes]
        decided = table[1].copy()
        decided[:, -1] = table[0].sum(axis=1)
        return decided


def confusion_of(
    label: ArrayLike | None, found: ArrayLike, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> NDArray[np.int64]:
    """Labelled components by ground truth class (row) and class found (column).

    What was found outside of [0, C), such as an abstention, is counted in a last column.

    >>> confusion_of([0, 1, 1, 255], [0, 1, 254, 0], 2).tolist()
    [[1, 0, 0], [0, 1, 1]]

    Args:
        label (np.ndarray | None): Ground truth; None for none.
        found (np.ndarray): Classes of the same shape.
        num_classes (int): Number of classes C.
        ignore_index (int): Label of components without ground truth.

    Returns:
        np.ndarray: int64, shape (C, C + 1).
    """
    width, found = num_classes + 1, np.asarray(found).ravel()
    if label is None:
        return np.zeros((num_classes, width), dtype=np.int64)
    truth = np.asarray(label).ravel()
    valid = truth != ignore_index
    check_classes(truth[valid], num_classes, f'label (ignore index {ignore_index})')
    columns = np.where((found >= 0) & (found < num_classes), found, num_classes)
    pairs = truth[valid].astype(np.int64) * width + columns[valid]
    return np.bincount(pairs, minlength=num_classes * width).reshape(num_classes, width)


def near_boundary(
    label: NDArray[np.integer], distance: int = BOUNDARY_DISTANCE
) -> NDArray[np.bool_]:
    """Where a label boundary is near, on a grid (H, W); the ignore index counts as a label.

    A component is near if one less than ``distance`` rows and columns away has a direct neighbour
    with another label.
    """
    near = np.zeros(label.shape, dtype=bool)
    for marks, labels in ((near, label), (near.T, label.T)):
        edge = labels[1:] != labels[:-1]
        marks[1:] |= edge
        marks[:-1] |= edge
    for marks in (near, near.T):
        reach = 0
        while reach < distance - 1:
            # Moved by more, a window that the border has clipped would leave a gap.
            step = min(reach + 1, distance - 1 - reach)
            before = marks.copy(order='K')
            marks[step:] |= before[:-step]
            marks[:-step] |= before[step:]
            reach += step
    return near


def total(counts: Iterable[ConfusionCounts], num_classes: int) -> ConfusionCounts:
    """Adds up counts over the same classes; all zeros if there are none."""
    square = np.zeros((num_classes, num_classes), dtype=np.int64)
    padded = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    return sum(counts, ConfusionCounts(padded, square, square, 0, 0, images=0))


def check_classes(classes: NDArray[Any], num_classes: int, what: str) -> None:
    """Checks that all values are classes in [0, C); ``what`` they are is for the message."""
    if classes.size == 0:
        return
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f'{what} out of range: found {low if low < 0 else high}, but there are {num_classes} '
            f'classes, 0 to {num_classes - 1}. Check num_classes, reduce_zero_label and the ignore '
            'index of the data set.'
        )
