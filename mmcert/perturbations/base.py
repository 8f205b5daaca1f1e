"""The seam between sampling and certificates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmcert.certify.checks import check_tau

LARGEST_TAU = math.nextafter(1.0, 0.0)
"""Where an attack moves an input so far that the threshold rounds to 1: no draws attain it."""


@dataclass(frozen=True)
class InputThreshold:
    """What an input asks of a certificate, where that depends on the input.

    Attributes:
        tau (float): Smallest threshold in [0.5, 1) whose certificates cover the attack set on this
            input; the largest number below 1 where none does.
        kind (str): 'certificate', or 'estimate' where the threshold is not proven to suffice.
        statement (dict): How it was found, as JSON values.

    Raises:
        ValueError: If the threshold is none, or the kind not one of these.
    """

    tau: float
    kind: str
    statement: dict[str, Any]

    def __post_init__(self) -> None:
        # NaN would pass through max() and leave the smallest threshold of all.
        check_tau(self.tau)
        if self.kind not in ('certificate', 'estimate'):
            raise ValueError(f"kind must be 'certificate' or 'estimate', got {self.kind!r}")


class Perturbation(ABC):
    """A distribution of random perturbations together with the guarantee it buys.

    Three verbs make a draw: ``draw`` gives parameters, ``apply`` perturbs the input by them, and
    ``map_labels`` brings the label maps of perturbed inputs back to the positions of the clean one.

    Attributes:
        domain (str): What it perturbs, 'image' or 'points'.
        normals (bool): Whether it takes the normals of points along, in columns behind the
            coordinates.
        moves_labels (bool): Whether it moves the content of the input, and the labels with it. Then
            a component is a position of the clean input's content, and whoever samples must choose
            the class by the label maps of ``map_labels``, and count hits by ``labels_for_hits``.
        per_input_threshold (bool): Whether the attack set is given, and each input has a threshold
            of its own, its ``input_threshold``.
        num_cells (int): Into how many cells the attack set is cut. With several, a certificate is a
            conjunction over them: whoever samples must take the estimation draws of every ``cell``
            and count, for each component, the fewest hits of any, as mmcert's sampler does.
    """

    domain: str = 'image'
    normals: bool = False
    moves_labels: bool = False
    per_input_threshold: bool = False
    num_cells: int = 1

    @property
    def selection_counts(self) -> bool:
        """Whether the draws that choose the class may count as hits beside the others.

        Never where several cells make up the perturbation, or hits ask for more than the label.
        """
        strict = type(self).labels_for_hits is not Perturbation.labels_for_hits
        return self.num_cells == 1 and not strict

    def cell(self, index: int) -> Perturbation:
        """The perturbation of one cell of the attack set.

        Args:
            index (int): In [0, ``num_cells``).

        Returns:
            Perturbation: One whose draws are of this cell.
        """
        return self

    def check(self, inputs: torch.Tensor) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuses an input that this perturbation is evidently not meant for.

        Args:
            inputs (torch.Tensor): The input.

        Raises:
            ValueError: If there is such a reason; the message says what to do.
        """

    @abstractmethod
    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the parameters of several perturbed inputs.

        Args:
            inputs (torch.Tensor): The input; only its shape matters.
            generators (Sequence[torch.Generator]): One for each draw, on the input's device: the
                only source of randomness.

        Returns:
            torch.Tensor: Shape (B, ...); row j depends on generator j and on the shape alone.
        """

    @abstractmethod
    def apply(
        self, inputs: torch.Tensor, parameters: torch.Tensor
    ) -> Sequence[torch.Tensor] | torch.Tensor:
        """Perturbs the input.

        Args:
            inputs (torch.Tensor): The input, unchanged by the call.
            parameters (torch.Tensor): What ``draw`` gave, shape (B, ...). The call may reuse its
                memory, except for what ``map_labels`` needs.

        Returns:
            Sequence[torch.Tensor] | torch.Tensor: B perturbed inputs, as a list or as one tensor
            (B, ...), each of the input's shape and type.
        """

    def sample(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws one perturbed input.

        Args:
            inputs (torch.Tensor): The input, unchanged by the call.
            generator (torch.Generator): The only source of randomness, on the input's device.

        Returns:
            torch.Tensor: The perturbed input.
        """
        return self.apply(inputs, self.draw(inputs, [generator]))[0]

    def map_labels(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Label maps of perturbed inputs at the positions of the clean one.

        Args:
            labels (torch.Tensor): Label maps predicted for what ``apply`` gave, shape (B, H, W),
                one label for each pixel of the input.
            parameters (torch.Tensor): Those of ``apply``.

        Returns:
            torch.Tensor: The same maps, unless ``moves_labels``: then at v the label of what lay at
            v before the perturbation moved it, or one outside [0, C), such as -1, if there is none.
        """
        return labels

    def labels_for_hits(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """The label maps that hits are counted by.

        Where content moves, attacks bring it to places between the pixels, and a certificate speaks
        of the pixel that is nearest. So a draw may have to show the same label at all pixels that
        an attack of the set could make the nearest one.

        Args:
            labels (torch.Tensor): As for ``map_labels``.
            parameters (torch.Tensor): As for ``map_labels``.

        Returns:
            torch.Tensor: As ``map_labels``, and outside [0, C) where these labels differ.
        """
        return self.map_labels(labels, parameters)

    def input_threshold(self, inputs: torch.Tensor) -> InputThreshold | None:
        """What a certificate takes on this input, where the attack set is given beforehand.

        Args:
            inputs (torch.Tensor): The input.

        Returns:
            InputThreshold | None: Determined by the input, never by the draws; None where
            ``radius`` says what a threshold buys on every input.

        Raises:
            ValueError: If the attack set is not legal for this input.
        """
        return None

    @abstractmethod
    def radius(self, tau: float, floor: float = 0.5) -> float:
        """Largest attack under which a probability above ``tau`` stays above ``floor``.

        Args:
            tau (float): Probability threshold in [0.5, 1).
            floor (float): What is to remain, in [0.5, 1): 1/2 keeps the most frequent class, m /
                (m + 1) keeps it within a set of m classes, and a test's threshold keeps that test
                from abstaining.

        Returns:
            float: The radius, in the unit that ``guarantee`` names; 0 if ``floor`` is not below
            ``tau``.
        """

    @abstractmethod
    def guarantee(self, tau: float) -> dict[str, Any]:
        """The attack set that a certificate at ``tau`` speaks of, as JSON values.

        Args:
            tau (float): Probability threshold in [0.5, 1).

        Returns:
            dict: At least ``perturbation``, ``law``, ``attack_set``, ``norm``, ``radius``, ``unit``
            and ``words``, one sentence for a reader.
        """

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What determines the law, as JSON values, for fingerprints."""
