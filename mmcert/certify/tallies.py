"""Additive counts of how certificates meet labels, and the rates made of them.

Every rate is a fraction in [0, 1] and pooled over the data set: the counts of all images are added
before anything is divided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

IGNORE_INDEX = 255
"""Label of the components that have no ground truth, by the custom of the data sets."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts over some images; tallies of different images add up.

    Attributes:
        certified (np.ndarray): Labelled components by ground truth class (row) and certified
            class (column), with a last column for abstentions, int64, shape (C, C + 1).
        smoothed (np.ndarray): The same for the smoothed model's guess class, shape (C, C).
        base (np.ndarray | None): The same for the base model without noise, shape (C, C).
        components (int): All components, those without a label included.
        abstained (int): How many of all components were not certified.
        images (int): Number of images.
    """

    certified: NDArray[np.int64]
    smoothed: NDArray[np.int64]
    base: NDArray[np.int64] | None
    components: int
    abstained: int
    images: int = 1

    def __add__(self, other: Tally) -> Tally:
        """Adds the counts of other images."""
        if self.certified.shape != other.certified.shape:
            raise ValueError(
                f'tallies over {len(self.certified)} and {len(other.certified)} classes do not add'
            )
        return Tally(
            certified=self.certified + other.certified,
            smoothed=self.smoothed + other.smoothed,
            base=None if self.base is None or other.base is None else self.base + other.base,
            components=self.components + other.components,
            abstained=self.abstained + other.abstained,
            images=self.images + other.images,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.certified)

    def rates(self) -> dict[str, float]:
        """The metrics, fractions in [0, 1]; NaN where there is nothing to divide by.

        Returns:
            dict: ``certAcc`` (certified and correct, of all labelled components; abstaining counts
            as wrong), ``mIoU`` (mean certified IoU, abstentions being false negatives, over the
            classes that occur), ``mIoU_paper`` (the same with classes that do not occur counted
            as 0, as in SegCertify's tables), ``abstain`` (of all components), ``abstain_valid``
            (of the labelled ones), ``certified_share`` (of all components), ``smoothed_aAcc``,
            ``smoothed_mIoU`` (the smoothed model without certification), and with a base model
            ``base_aAcc``, ``base_mIoU``.
        """
        labelled = int(self.certified.sum())
        iou = self.certified_iou()
        rates = {
            'certAcc': _ratio(np.trace(self.certified), labelled),
            'mIoU': _mean(iou),
            'mIoU_paper': float(np.nan_to_num(iou).mean()),
            'abstain': _ratio(self.abstained, self.components),
            'abstain_valid': _ratio(self.certified[:, -1].sum(), labelled),
            'certified_share': _ratio(self.components - self.abstained, self.components),
            'smoothed_aAcc': _ratio(np.trace(self.smoothed), labelled),
            'smoothed_mIoU': _mean(_iou(self.smoothed)),
        }
        if self.base is not None:
            rates['base_aAcc'] = _ratio(np.trace(self.base), labelled)
            rates['base_mIoU'] = _mean(_iou(self.base))
        return rates

    def certified_iou(self) -> NDArray[np.float64]:
        """Certified IoU of each class, shape (C,); NaN for a class absent from both sides."""
        return _iou(self.certified)

    def per_class(self) -> dict[str, list[float]]:
        """Certified IoU, certified accuracy and abstention of each class, by name of the rate."""
        with np.errstate(invalid='ignore'):
            labelled = self.certified.sum(axis=1)
            return {
                'certIoU': self.certified_iou().tolist(),
                'certAcc': (np.diagonal(self.certified) / labelled).tolist(),
                'abstain': (self.certified[:, -1] / labelled).tolist(),
            }


def tally(
    label: ArrayLike | None,
    guess: ArrayLike,
    certified: ArrayLike,
    num_classes: int,
    *,
    base: ArrayLike | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tally:
    """Counts one image.

    Args:
        label (np.ndarray | None): Ground truth, classes in [0, C) or ``ignore_index``; None if
            there is none, which counts every component as unlabelled.
        guess (np.ndarray): Class of the smoothed model, in [0, C), the shape of ``label``.
        certified (np.ndarray): True where the guess is certified, same shape.
        num_classes (int): Number of classes C.
        base (np.ndarray | None): Prediction of the base model without noise, same shape.
        ignore_index (int): Label of components without ground truth.

    Returns:
        Tally: The counts.

    Raises:
        ValueError: If shapes differ or a class is out of range.
    """
    guess, certified = np.asarray(guess).ravel(), np.asarray(certified, dtype=bool).ravel()
    check_classes(guess, num_classes, 'guess')
    truth = np.full(guess.shape, ignore_index) if label is None else np.asarray(label).ravel()
    if not truth.shape == guess.shape == certified.shape:
        raise ValueError(
            f'label, guess and mask must have one shape, got {truth.shape}, {guess.shape} and '
            f'{certified.shape} (flattened)'
        )
    valid = truth != ignore_index
    truth = truth[valid]
    check_classes(truth, num_classes, f'label (ignore index {ignore_index})')
    decided = np.where(certified[valid], guess[valid], num_classes)
    base_counts = None
    if base is not None:
        predicted = np.asarray(base).ravel()
        check_classes(predicted, num_classes, 'base prediction')
        base_counts = _confusion(truth, predicted[valid], num_classes, num_classes)
    return Tally(
        certified=_confusion(truth, decided, num_classes, num_classes + 1),
        smoothed=_confusion(truth, guess[valid], num_classes, num_classes),
        base=base_counts,
        components=guess.size,
        abstained=int(guess.size - np.count_nonzero(certified)),
    )


def total(tallies: Iterable[Tally], num_classes: int) -> Tally:
    """Adds up tallies; all zeros if there are none.

    Args:
        tallies (Iterable[Tally]): Tallies over the same classes.
        num_classes (int): Number of classes C.

    Returns:
        Tally: Their sum.
    """
    square = np.zeros((num_classes, num_classes), dtype=np.int64)
    padded = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    result = Tally(padded, square, square, components=0, abstained=0, images=0)
    for item in tallies:
        result = result + item
    return result


def check_classes(classes: NDArray[Any], num_classes: int, what: str) -> None:
    """Checks that all values are classes in [0, C).

    Args:
        classes (np.ndarray): Integers, any shape.
        num_classes (int): Number of classes C.
        what (str): What they are, for the message.

    Raises:
        ValueError: If a value is out of range; the message gives it.
    """
    if classes.size == 0:
        return
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f'{what} out of range: found {low if low < 0 else high}, but there are {num_classes} '
            f'classes, 0 to {num_classes - 1}. Check num_classes, reduce_zero_label and the ignore '
            'index of the data set.'
        )


def _confusion(
    rows: NDArray[Any], columns: NDArray[Any], num_rows: int, num_columns: int
) -> NDArray[np.int64]:
    index = rows.astype(np.int64) * num_columns + columns
    counts = np.bincount(index, minlength=num_rows * num_columns)
    return counts.reshape(num_rows, num_columns).astype(np.int64)


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class; a column beyond the classes holds abstentions: false negatives only."""
    num_classes = len(confusion)
    hit = np.diagonal(confusion)
    union = confusion.sum(axis=1) + confusion[:, :num_classes].sum(axis=0) - hit
    with np.errstate(invalid='ignore'):
        return np.asarray(hit / union, dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float('nan')


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else float('nan')
