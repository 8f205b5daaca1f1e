"""Further answers from stored votes: no model, no new draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.certificate import Certificate, component_order
from mmcert.certify.hierarchy import Hierarchy
from mmcert.certify.selection import settle_joint, settle_votes
from mmcert.certify.settings import SELECTION, CertifySettings
from mmcert.certify.simultaneous import joint_radii
from mmcert.metrics.confusion import IGNORE_INDEX, ConfusionAccumulator, ConfusionCounts, total
from mmcert.votes.record import VotesRecord


@dataclass(frozen=True)
class Task:
    """What labels are to be read as.

    Attributes:
        num_classes (int): Number of classes C.
        ignore_index (int): Label of components without ground truth.
        hierarchy (Hierarchy | None): Coarser levels that the votes were counted for.
    """

    num_classes: int
    ignore_index: int = IGNORE_INDEX
    hierarchy: Hierarchy | None = None

    def accumulator(self, record: VotesRecord) -> ConfusionAccumulator:
        """What counts certificates of these votes."""
        return ConfusionAccumulator(
            record.label,
            record.spread(record.votes.guess),
            self.num_classes,
            base=None if record.base is None else record.spread(record.base),
            ignore_index=self.ignore_index,
            boundaries=True,
        )

    def count(
        self, record: VotesRecord, accumulator: ConfusionAccumulator, certificate: Certificate
    ) -> ConfusionCounts:
        """Counts one certificate, with its levels if there is a hierarchy."""
        levels = None
        if certificate.level is not None and self.hierarchy is not None:
            levels = accumulator.hierarchy_counts(
                record.spread(certificate.level),
                record.spread(certificate.guess),
                [record.spread(nodes) for nodes in certificate.groups],
                self.hierarchy,
            )
        # A wrong certificate may show in all pixels of its component.
        wrong = (certificate.k - 1) * record.pixels_per_component
        return accumulator.tally(record.spread(certificate.certified), wrong, levels)


def evaluate(
    records: Iterable[VotesRecord],
    settings: Sequence[CertifySettings],
    task: Task,
    on_certificate: Callable[[int, VotesRecord, Certificate], None] | None = None,
) -> list[ConfusionCounts]:
    """Certifies stored votes under several settings, in one pass over the images.

    Each answer is valid by itself. Choosing the best-looking among them afterwards is not covered
    by its alpha.

    Args:
        records (Iterable[VotesRecord]): One per image.
        settings (Sequence[CertifySettings]): Combinations to answer.
        task (Task): What labels are to be read as.
        on_certificate (Callable | None): Called with the index of the settings, the record and its
            certificate, for what the counts do not tell.

    Returns:
        list[ConfusionCounts]: Counts over all images, one per combination.

    Raises:
        ValueError: If a term or a label is out of range, or the votes lack what the settings need.
    """
    sums = [total([], task.num_classes) for _ in settings]
    for record in records:
        accumulator = task.accumulator(record)
        orders: dict[tuple[str, str], NDArray[np.int32] | None] = {}
        for index, term in enumerate(settings):
            order = None
            if term.procedure == 'ordered_holm':
                kind = (settle_votes(record.votes, term).selection, term.order)
                if kind not in orders:
                    orders[kind] = component_order(record.votes, term, record.margin)
                order = orders[kind]
            certificate = record.certify(term, task.hierarchy, order=order)
            if on_certificate is not None:
                on_certificate(index, record, certificate)
            sums[index] += task.count(record, accumulator, certificate)
    return sums


@dataclass(frozen=True, eq=False)
class RadiusCurve:
    """Certified rates over the radius, all points of all images' components jointly valid.

    With probability at least 1 - alpha per image, the counts of that image are right at every
    radius at once (see ``simultaneous``). Curves of different images add up.

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

    radii: NDArray[np.float64]
    correct: NDArray[np.int64]
    decided: NDArray[np.int64]
    labelled: NDArray[np.int64]
    kept: NDArray[np.int64]
    components: int
    selections: frozenset[str] = field(default_factory=frozenset)

    def __add__(self, other: RadiusCurve) -> RadiusCurve:
        """Adds the counts of other images."""
        return RadiusCurve(
            radii=self.radii,
            correct=self.correct + other.correct,
            decided=self.decided + other.decided,
            labelled=self.labelled + other.labelled,
            kept=self.kept + other.kept,
            components=self.components + other.components,
            selections=self.selections | other.selections,
        )

    def rows(self) -> list[dict[str, float]]:
        """``radius``, ``certAcc``, ``mIoU`` and ``abstain`` at each radius."""
        with np.errstate(invalid='ignore'):
            union = self.labelled[:, None] + self.decided - self.correct
            iou = self.correct / union
            accuracy = self.correct.sum(axis=0) / self.labelled.sum()
        occurring = np.maximum((union > 0).sum(axis=0), 1)
        mean = np.where((union > 0).any(axis=0), np.nan_to_num(iou).sum(axis=0) / occurring, np.nan)
        abstain = 1 - self.kept / max(self.components, 1)
        columns = zip(self.radii, accuracy, mean, abstain, strict=True)
        names = ('radius', 'certAcc', 'mIoU', 'abstain')
        return [dict(zip(names, map(float, column), strict=True)) for column in columns]


def radius_curve(
    records: Iterable[VotesRecord],
    task: Task,
    radii: Sequence[float],
    *,
    alpha: float,
    radius: Callable[[float], float],
    selection: str = SELECTION,
) -> RadiusCurve:
    """The jointly valid curve of certified rates over the radius.

    Args:
        records (Iterable[VotesRecord]): One per image.
        task (Task): What labels are to be read as.
        radii (Sequence[float]): Radii to answer, increasing.
        alpha (float): Bound of the probability, per image, that any point is wrong.
        radius (Callable): From tau to the perturbation's radius.
        selection (str): 'holdout', 'same_draws' or 'auto', see ``simultaneous.joint_radii``.

    Returns:
        RadiusCurve: Counts over all images.
    """
    grid = np.asarray(radii, dtype=np.float64)
    empty = np.zeros((task.num_classes, len(grid)), dtype=np.int64)
    curve = RadiusCurve(grid, empty, empty, empty[:, 0], empty[0], 0)
    for record in records:
        # A component counts at the radii below its own, which it withstands in full.
        counted = settle_joint(record.votes, alpha, selection)
        found = joint_radii(record.votes, alpha=alpha, radius=radius, selection=counted)
        reach = np.searchsorted(grid, record.spread(found).ravel())
        guess = record.spread(record.votes.guess).ravel().astype(np.int64)
        truth = (
            np.full(guess.shape, task.ignore_index)
            if record.label is None
            else record.label.ravel().astype(np.int64)
        )
        valid = truth != task.ignore_index
        right = valid & (truth == guess)
        curve += RadiusCurve(
            grid,
            correct=_reached(guess[right], reach[right], task.num_classes, len(grid)),
            decided=_reached(guess[valid], reach[valid], task.num_classes, len(grid)),
            labelled=np.bincount(truth[valid], minlength=task.num_classes),
            kept=_reached(np.zeros_like(guess), reach, 1, len(grid))[0],
            components=guess.size,
            selections=frozenset([counted]),
        )
    return curve


def _reached(
    classes: NDArray[np.int64], reach: NDArray[np.int64], num_classes: int, size: int
) -> NDArray[np.int64]:
    """How many components of each class reach each of the radii, shape (C, R)."""
    cells = np.bincount(classes * (size + 1) + reach, minlength=num_classes * (size + 1))
    by_reach = cells.reshape(num_classes, size + 1)
    return by_reach[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
