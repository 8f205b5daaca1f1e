"""Certified rates as functions of the radius."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.metrics.confusion import IGNORE_INDEX
from mmcert.metrics.counts import SHARED, Counts, iou, mean_of_present


@dataclass(frozen=True, eq=False)
class RadiusCurve(Counts):
    """Counts over some images of the components that keep their class up to each radius.

    If the radii of an image's components hold jointly with probability at least 1 - alpha (see
    ``mmcert.certify.joint_radii``), so do its counts, at every radius at once. Curves of different
    images add up.

    Attributes:
        radii (np.ndarray): Radii, increasing, shape (R,).
        correct (np.ndarray): Labelled components by class that keep their class, which is right,
            under every attack up to the radius, int64, shape (C, R).
        decided (np.ndarray): Labelled components by guess class that keep it, shape (C, R).
        labelled (np.ndarray): Labelled components by class, shape (C,).
        kept (np.ndarray): All components that keep their class, shape (R,).
        components (int): All components.
        selections (frozenset[str]): What was counted, 'holdout' or 'same_draws'; images of
            different sizes may differ in what 'auto' takes.
    """

    radii: NDArray[np.float64] = field(metadata=SHARED)
    correct: NDArray[np.int64]
    decided: NDArray[np.int64]
    labelled: NDArray[np.int64]
    kept: NDArray[np.int64]
    components: int
    selections: frozenset[str] = frozenset()

    def rows(self) -> list[dict[str, float]]:
        """``radius``, ``certAcc``, ``mIoU`` and ``abstain`` at each radius."""
        union = self.labelled[:, None] + self.decided - self.correct
        with np.errstate(invalid='ignore'):
            accuracy = self.correct.sum(axis=0) / self.labelled.sum()
        mean = [mean_of_present(of_classes) for of_classes in iou(self.correct, union).T]
        abstain = 1 - self.kept / max(self.components, 1)
        columns = zip(self.radii, accuracy, mean, abstain, strict=True)
        names = ('radius', 'certAcc', 'mIoU', 'abstain')
        return [dict(zip(names, map(float, column), strict=True)) for column in columns]


def count_radii(
    label: ArrayLike | None,
    guess: ArrayLike,
    found: ArrayLike,
    radii: NDArray[np.float64],
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    selection: str | None = None,
) -> RadiusCurve:
    """Counts one image.

    Args:
        label (np.ndarray | None): Ground truth; None if there is none.
        guess (np.ndarray): Class of the smoothed model, the shape of ``label``.
        found (np.ndarray): Certified radius of each component, same shape. A component counts at
            the radii below its own.
        radii (np.ndarray): Radii to count at, increasing, shape (R,).
        num_classes (int): Number of classes C.
        ignore_index (int): Label of components without ground truth.
        selection (str | None): What was counted, to be carried along.
    """
    reach = np.searchsorted(radii, np.ravel(found))
    decided = np.ravel(guess).astype(np.int64)
    truth = np.full(decided.shape, ignore_index) if label is None else np.ravel(label).astype(int)
    labelled = truth != ignore_index
    right = labelled & (truth == decided)

    def reached(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of these components of each class reach each of the radii, shape (C, R)."""
        columns = len(radii) + 1
        cells = decided[chosen] * columns + reach[chosen]
        counts = np.bincount(cells, minlength=num_classes * columns).reshape(num_classes, columns)
        return counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]

    return RadiusCurve(
        radii,
        correct=reached(right),
        decided=reached(labelled),
        labelled=np.bincount(truth[labelled], minlength=num_classes),
        kept=reached(np.ones_like(right)).sum(axis=0),
        components=decided.size,
        selections=frozenset() if selection is None else frozenset([selection]),
    )
