"""What the levels of a hierarchy certify: counts, and the certified information gain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.hierarchy import Hierarchy
from mmcert.metrics.counts import Counts, mean_of_present, ratio


@dataclass(frozen=True, eq=False)
class HierarchyCounts(Counts):
    """Counts over some images of what a hierarchy's levels certify.

    Attributes:
        levels (np.ndarray): Labelled components by ground truth class, level (0 the classes, then
            the levels of groups, last nothing) and whether what is certified contains the ground
            truth, int64, shape (C, L + 2, 2).
        components (np.ndarray): All components by level, int64, shape (L + 2,).
        information (np.ndarray): Sum over the labelled components of each class of the information
            in their certified group, relative to a class, where it contains the ground truth; shape
            (C,).
    """

    levels: NDArray[np.int64]
    components: NDArray[np.int64]
    information: NDArray[np.float64]

    def rates(self, allowance: int = 0) -> dict[str, float]:
        """The metrics, fractions in [0, 1]; NaN where there is nothing to divide by.

        Args:
            allowance (int): How many certificates the procedure allows to be wrong. They count as
                not certified where that hurts most, and ``cCIG`` is not known.

        Returns:
            dict: ``CIG``, the certified information gain: the mean over labelled components of (log
            C - log size) / log C of the certified group where it contains the ground truth, else 0
            (Anani, Lorenz, Schiele, Fritz, "Adaptive Hierarchical Certification for Segmentation
            using Randomized Smoothing", ICML 2024); ``cCIG``, its mean over classes; and for each
            level l = 0, 1, ... ``abstain_level{l}`` (share of all components that are certified
            neither at this level nor at a finer one) and ``certAcc_level{l}`` (share of the
            labelled ones that are, correctly).
        """
        labelled = self.levels.sum(axis=(1, 2))
        with np.errstate(invalid='ignore'):
            by_class = mean_of_present(self.information / labelled)
        information = max(self.information.sum() - allowance, 0.0)
        rates = {
            'CIG': ratio(information, labelled.sum()),
            'cCIG': float('nan') if allowance else by_class,
        }
        for level in range(len(self.components) - 1):
            finer = slice(0, level + 1)
            certified = max(int(self.components[finer].sum()) - allowance, 0)
            total = int(self.components.sum())
            correct = max(int(self.levels[:, finer, 1].sum()) - allowance, 0)
            rates[f'abstain_level{level}'] = ratio(total - certified, total)
            rates[f'certAcc_level{level}'] = ratio(correct, labelled.sum())
        return rates


def count_levels(
    label: NDArray[np.integer],
    labelled: NDArray[np.bool_],
    level: NDArray[np.integer],
    choices: Sequence[NDArray[np.integer]],
    hierarchy: Hierarchy,
) -> HierarchyCounts:
    """Counts one certificate by the levels of a hierarchy; all arrays have the shape (K,).

    Where nothing is ``labelled``, ``label`` is any class. ``level`` is that of ``Certificate``, and
    ``choices`` are what it certifies at each level: the class, then the groups.
    """
    num_classes, last = len(hierarchy.classes), hierarchy.num_levels + 1
    correct = np.zeros(level.size, dtype=bool)
    gain = np.zeros(level.size)
    for index, choice in enumerate(choices):
        here = level == index
        found, true = choice[here], label[here]
        correct[here] = found == (true if index == 0 else hierarchy.groups[index - 1][true])
        gain[here] = np.where(correct[here], hierarchy.information(index)[found], 0.0)
    cells = (label * (last + 1) + level) * 2 + correct
    counts = np.bincount(cells[labelled], minlength=num_classes * (last + 1) * 2)
    information = np.bincount(label[labelled], weights=gain[labelled], minlength=num_classes)
    return HierarchyCounts(
        levels=counts.reshape(num_classes, last + 1, 2).astype(np.int64),
        components=np.bincount(level, minlength=last + 1).astype(np.int64),
        information=information.astype(np.float64),
    )
