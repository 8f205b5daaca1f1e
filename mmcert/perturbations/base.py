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
    """A law of random perturbations together with the guarantee it buys.

    The law and its radius live together because one fixes the other.

    Attributes:
        domain (str): What it perturbs, 'image' or 'points'.
        normals (bool): Whether it takes the normals of points along, in columns behind the
            coordinates.
        frame (str): 'output' if a component is a position of the label map; 'content' if it is a
            position of the clean input's content, which the perturbation moves: then whoever
            samples must choose the class by the label maps ``carried_back``, and count hits by what
            is ``agreed``, as mmcert's sampler does.
        strict_hits (bool): Whether ``agreed`` asks for more than ``carried_back`` tells. Then the
            selection draws choose the class and must never count as hits.
        per_input_threshold (bool): Whether the attack set is given, and each input has a threshold
            of its own, its ``input_threshold``.
        parts (int): How many laws make up the perturbation. With several, a certificate is a
            conjunction over them: whoever samples must take the estimation draws of every ``part``
            and count, for each component, the fewest hits of any, as mmcert's sampler does.
    """

    domain: str = 'image'
    normals: bool = False
    frame: str = 'output'
    strict_hits: bool = False
    per_input_threshold: bool = False
    parts: int = 1

    @property
    def selection_counts(self) -> bool:
        """Whether the draws that choose the class may count as hits beside the others."""
        return self.parts == 1 and not self.strict_hits

    def part(self, index: int) -> Perturbation:
        """One of the laws that make up the perturbation.

        Args:
            index (int): In [0, ``parts``).

        Returns:
            Perturbation: One whose draws are of this part.
        """
        return self

    def check(self, inputs: torch.Tensor) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuses an input that this perturbation is evidently not meant for.

        Args:
            inputs (torch.Tensor): As ``sample`` gets it.

        Raises:
            ValueError: If there is such a reason; the message says what to do.
        """

    @abstractmethod
    def sample(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws one perturbed input.

        Args:
            inputs (torch.Tensor): The input, unchanged by the call.
            generator (torch.Generator): The only source of randomness, on the input's device.

        Returns:
            torch.Tensor: The perturbed input.
        """

    def sample_many(
        self, inputs: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> Sequence[torch.Tensor] | torch.Tensor:
        """Draws several perturbed inputs: what ``sample`` gives with each generator.

        Args:
            inputs (torch.Tensor): The input, unchanged by the call.
            generators (Sequence[torch.Generator]): One for each draw, on the input's device.

        Returns:
            Sequence[torch.Tensor] | torch.Tensor: The perturbed inputs, as a list or as one tensor
            (B, ...).
        """
        return [self.sample(inputs, generator) for generator in generators]

    def carried_back(
        self, labels: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """Label maps of perturbed inputs in the frame of the clean one.

        Args:
            labels (torch.Tensor): Label maps predicted for what ``sample_many`` gave, shape (B,
                H, W), one label for each pixel of the input.
            generators (Sequence[torch.Generator]): B of them, in the state in which they drew.

        Returns:
            torch.Tensor: The same maps with ``frame='output'``; with 'content', at v the label
            of what lay at v before the perturbation moved it, or one outside
            [0, C), such as -1, if there is none.
        """
        return labels

    def agreed(self, labels: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """The label maps that hits are counted by.

        Where content moves, attacks bring it to places between the pixels, and a certificate speaks
        of the pixel that is nearest. So a draw may have to show the same label at all pixels that
        an attack of the set could make the nearest one.

        Args:
            labels (torch.Tensor): As for ``carried_back``.
            generators (Sequence[torch.Generator]): As for ``carried_back``.

        Returns:
            torch.Tensor: As ``carried_back``, and outside [0, C) where these labels differ.
        """
        return self.carried_back(labels, generators)

    def input_threshold(self, inputs: torch.Tensor) -> InputThreshold | None:
        """What a certificate takes on this input, where the attack set is given beforehand.

        Args:
            inputs (torch.Tensor): As ``sample`` gets it.

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
