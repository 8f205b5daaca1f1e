"""Further answers from stored votes: no model, no new draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmcert.certify.certificate import certify
from mmcert.certify.tallies import Tally, tally, total
from mmcert.certify.votes import VotesRecord


@dataclass(frozen=True)
class Terms:
    """One combination of terms to certify under.

    Attributes:
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the FWER per image, in (0, 1).
        procedure (str): Multiple testing procedure.
    """

    tau: float
    alpha: float
    procedure: str


def evaluate(
    records: Iterable[VotesRecord], terms: Sequence[Terms], num_classes: int, ignore_index: int
) -> list[Tally]:
    """Certifies stored votes under several terms, in one pass over the images.

    Each answer is valid by itself. Choosing the best-looking among them afterwards is not covered
    by its alpha.

    Args:
        records (Iterable[VotesRecord]): One per image.
        terms (Sequence[Terms]): Combinations to answer.
        num_classes (int): Number of classes C.
        ignore_index (int): Label of components without ground truth.

    Returns:
        list[Tally]: Counts over all images, one per combination.

    Raises:
        ValueError: If a term or a label is out of range.
    """
    sums = [total([], num_classes) for _ in terms]
    for record in records:
        for index, term in enumerate(terms):
            certificate = certify(
                record.votes, tau=term.tau, alpha=term.alpha, procedure=term.procedure
            )
            sums[index] += tally(
                record.label,
                certificate.guess,
                certificate.certified,
                num_classes,
                base=record.base,
                ignore_index=ignore_index,
            )
    return sums
