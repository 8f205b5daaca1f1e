"""Certifies stored votes again, under other settings: no model, no new draws."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmcert.certify.certificate import Certificate, ComponentOrder, component_order
from mmcert.certify.hierarchy import Hierarchy
from mmcert.certify.selection import settle_joint, settle_votes
from mmcert.certify.settings import SELECTION, CertifySettings
from mmcert.certify.simultaneous import joint_radii
from mmcert.metrics.confusion import IGNORE_INDEX, ConfusionAccumulator, ConfusionCounts, total
from mmcert.metrics.radius_curve import RadiusCurve, count_radii
from mmcert.votes.record import VotesRecord


@dataclass(frozen=True)
class Task:
    """What the labels beside votes mean.

    Attributes:
        num_classes (int): Number of classes C.
        ignore_index (int): Label of components without ground truth.
        hierarchy (Hierarchy | None): The hierarchy that the votes were counted for.
    """

    num_classes: int
    ignore_index: int = IGNORE_INDEX
    hierarchy: Hierarchy | None = None


def evaluate(
    records: Iterable[VotesRecord],
    settings: Sequence[CertifySettings | None],
    task: Task,
    on_certificate: Callable[[int, VotesRecord, Certificate], None] | None = None,
) -> list[ConfusionCounts]:
    """Certifies stored votes under several settings, in one pass over the images.

    Each answer is valid by itself. Choosing the best-looking among them afterwards is not covered
    by its alpha.

    >>> import numpy as np
    >>> from mmcert.certify import CertifySettings, Votes
    >>> from mmcert.votes import VotesRecord
    >>> votes = Votes(guess=np.array([0, 1, 1]), hits=np.array([100, 99, 60]), n=100, n0=10)
    >>> record = VotesRecord(votes, meta={}, label=np.array([0, 1, 1]))
    >>> settings = [CertifySettings(tau, alpha=0.001) for tau in (0.5, 0.75, 0.95)]
    >>> [counts.abstained for counts in evaluate([record], settings, Task(num_classes=2))]
    [1, 1, 3]

    Args:
        records (Iterable[VotesRecord]): One per image.
        settings (Sequence[CertifySettings | None]): Combinations to answer; None for votes of an
            enumeration.
        task (Task): What the labels mean.
        on_certificate (Callable | None): Called with the index of the settings, the record and its
            certificate, for what the counts do not tell.

    Returns:
        list[ConfusionCounts]: Counts over all images, one per combination.

    Raises:
        ValueError: If a setting or a label is out of range, or the votes lack what the settings
            need.
    """
    sums = [total([], task.num_classes) for _ in settings]
    for record in records:
        accumulator = ConfusionAccumulator(
            record.label,
            record.spread(record.votes.guess),
            task.num_classes,
            base=None if record.base is None else record.spread(record.base),
            ignore_index=task.ignore_index,
            hierarchy=task.hierarchy,
        )
        orders: dict[tuple[str, str], ComponentOrder] = {}
        for index, one in enumerate(settings):
            order = None
            if one is not None and one.rule.takes_order:
                key = (settle_votes(record.votes, one).selection, one.order)
                if key not in orders:
                    orders[key] = component_order(record.votes, one, record.margin)
                order = orders[key]
            certificate = record.certify(one, task.hierarchy, order=order)
            if on_certificate is not None:
                on_certificate(index, record, certificate)
            level = certificate.level
            sums[index] += accumulator.count(
                record.spread(certificate.certified),
                # A wrong certificate may show in all pixels of its component.
                (certificate.k - 1) * record.pixels_per_component,
                None if level is None else record.spread(level),
                [record.spread(groups) for groups in certificate.groups],
            )
    return sums


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
        task (Task): What the labels mean.
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
        counted = settle_joint(record.votes, alpha, selection)
        found = joint_radii(record.votes, alpha=alpha, radius=radius, selection=counted)
        curve += count_radii(
            record.label,
            record.spread(record.votes.guess),
            record.spread(found),
            grid,
            task.num_classes,
            ignore_index=task.ignore_index,
            selection=counted,
        )
    return curve
