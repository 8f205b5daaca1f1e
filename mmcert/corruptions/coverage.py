"""Whether a corrupted input lies in what a certificate of the clean one speaks of.

A certificate covers a corrupted input only where that is proven for this very input, number by
number. That a corruption is called as a transformation is, or nearly does the same, proves nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from mmcert.attacks.judge import least_tau
from mmcert.perturbations import (
    AdditiveNoise,
    Enumeration,
    Perturbation,
    Rotation3D,
    TransformationCells,
)
from mmcert.perturbations.base import LARGEST_TAU
from mmcert.perturbations.cells import MARGIN, NOISE_EPS
from mmcert.perturbations.noise import GaussianNoise
from mmcert.transformations import Transformation

ORDERS = {'l1': 1.0, 'l2': 2.0, 'linf': math.inf}
"""Norms that are computed here."""

ROUNDING = 1e-9
"""Share that norms computed in double precision are raised by."""

SAME_AS = {
    'brightness': 'brightness',
    'contrast': 'contrast',
    'pixelate': 'pixelate',
    'jpeg_compression': 'jpeg',
    'gaussian_blur': 'gaussian_blur',
    'defocus_blur': 'defocus_blur',
}
"""Transformations that come near to a corruption, at the parameters of its severities."""


@dataclass(frozen=True)
class Cover:
    """What a certificate of the clean input proves of a corrupted one.

    Attributes:
        covered (bool): Whether the corrupted input is proven to lie in the certified set.
        tau (float | None): The least threshold at which it does; None where the certificate of the
            config covers it as it is, and where none covers it.
        distance (float | None): How far the corruption has gone, in the certificate's own measure;
            None where that measures nothing.
    """

    covered: bool
    tau: float | None = None
    distance: float | None = None


class Coverage(ABC):
    """What certificates of one clean input cover; see ``coverage``.

    Attributes:
        measure (str | None): What distances are, in words.
    """

    measure: str | None = None

    def reach(self, tau: float) -> float | None:
        """The largest distance that certificates at a threshold cover, where there is one."""
        return None

    @abstractmethod
    def of(
        self, inputs: torch.Tensor, name: str, severity: int, rotation: torch.Tensor | None = None
    ) -> Cover:
        """Whether a corrupted input is covered.

        Args:
            inputs (torch.Tensor): The corrupted input, in the units of the perturbation.
            name (str): Of the corruption.
            severity (int): 1 to 5.
            rotation (torch.Tensor | None): See ``Corrupted``.
        """


def coverage(perturbation: Perturbation, clean: torch.Tensor) -> Coverage:
    """What certificates of a clean input cover.

    Args:
        perturbation (Perturbation): What the certificates are of.
        clean (torch.Tensor): The input, in the units of the perturbation.

    Example:
        >>> clean = torch.zeros(3, 32, 32)
        >>> covered = coverage(GaussianNoise(0.25), clean)
        >>> corrupted = clean.clone()
        >>> corrupted[0, 0, 0] = 0.1686
        >>> found = covered.of(corrupted, 'spatter', severity=1)
        >>> found.covered, round(found.tau, 2), round(found.distance, 4)
        (True, 0.75, 0.1686)
    """
    if isinstance(perturbation, GaussianNoise):
        return _ByCoordinates(perturbation, clean)
    if isinstance(perturbation, AdditiveNoise) and perturbation.norm in ORDERS:
        return _ByNorm(perturbation, clean)
    if isinstance(perturbation, Rotation3D):
        return _ByRotation(perturbation, clean)
    if isinstance(perturbation, Enumeration) and not perturbation.moves_labels:
        return _ByTransformation(perturbation.transformation, perturbation.enumerated, None, clean)
    if isinstance(perturbation, TransformationCells) and not perturbation.moves_labels:
        return _ByCells(perturbation, clean)
    return _Nothing()


class _Nothing(Coverage):
    """Certificates of which no corruption is known to be covered."""

    def of(
        self, inputs: torch.Tensor, name: str, severity: int, rotation: torch.Tensor | None = None
    ) -> Cover:
        return Cover(False)


class _Within(Coverage):
    """Certificates of a radius."""

    precision = 0.0

    def __init__(self, perturbation: Perturbation, clean: torch.Tensor) -> None:
        self.perturbation, self.clean = perturbation, clean
        self.measure = f'{perturbation.norm}, {perturbation.unit}'

    def reach(self, tau: float) -> float:
        """The radius."""
        return self.perturbation.radius(tau)

    def of(
        self, inputs: torch.Tensor, name: str, severity: int, rotation: torch.Tensor | None = None
    ) -> Cover:
        if inputs.shape != self.clean.shape:
            return Cover(False)
        distance = self.distance(inputs, rotation)
        if distance is None:
            return Cover(False)
        reach = distance * (1 + ROUNDING)
        if not reach <= self.perturbation.radius(LARGEST_TAU):
            return Cover(False, distance=distance)
        tau = least_tau(self.perturbation, reach, self.precision) if reach > 0 else 0.5
        return Cover(True, tau, distance)

    @abstractmethod
    def distance(self, inputs: torch.Tensor, rotation: torch.Tensor | None) -> float | None:
        """The size of the attack; None if it is none that certificates speak of."""


class _ByNorm(_Within):
    """The norm of the difference."""

    def distance(self, inputs: torch.Tensor, rotation: torch.Tensor | None) -> float:
        difference = (inputs.double() - self.clean.double()).flatten()
        assert self.perturbation.norm is not None
        return float(torch.linalg.vector_norm(difference, ORDERS[self.perturbation.norm]))


class _ByCoordinates(_Within):
    """The distance in coordinates in which the noise is standard normal, as a norm of the image.

    For noise on every value that is the l2 norm. Noise on means of blocks does not see what leaves
    these means alone.
    """

    perturbation: GaussianNoise

    def __init__(self, perturbation: GaussianNoise, clean: torch.Tensor) -> None:
        super().__init__(perturbation, clean)
        self.at = perturbation.coordinates(clean[None].double())
        # Whole levels plus noise are exact; of means, the noise is added to values between levels.
        exact = type(perturbation).apply_at is GaussianNoise.apply_at
        self.margin = 0.0 if exact else _margin(perturbation, self.at.shape[1])
        if not exact:
            self.measure = (
                f'least l2 norm, {perturbation.unit}, that moves what the noise is added to as far'
            )

    def distance(self, inputs: torch.Tensor, rotation: torch.Tensor | None) -> float:
        moved = float((self.perturbation.coordinates(inputs[None].double()) - self.at).norm())
        return (moved + self.margin) / self.perturbation.lipschitz if moved else 0.0


class _ByRotation(_Within):
    """The angle of a rotation about the origin that is computed as the certificate's are."""

    perturbation: Rotation3D
    precision = 1e-4

    def distance(self, inputs: torch.Tensor, rotation: torch.Tensor | None) -> float | None:
        if rotation is None:
            return None
        if not torch.equal(self.perturbation.transform(self.clean, rotation), inputs):
            return None
        return float(torch.linalg.vector_norm(rotation))


class _ByTransformation(Coverage):
    """Attack sets of a transformation: the corrupted input must be a transformed one, bit by bit.

    Those of a set, (N, P), or of a ``box`` in place of it.
    """

    def __init__(
        self,
        transformation: Transformation,
        values: torch.Tensor | None,
        box: tuple[torch.Tensor, torch.Tensor] | None,
        clean: torch.Tensor,
    ) -> None:
        self.transformation, self.clean = transformation, clean
        self.values, self.box = values, box

    def of(
        self, inputs: torch.Tensor, name: str, severity: int, rotation: torch.Tensor | None = None
    ) -> Cover:
        if inputs.shape != self.clean.shape:
            return Cover(False)
        found = [self.reached(attacked, inputs) for attacked in self._candidates(name, severity)]
        return min(
            found,
            key=lambda cover: (not cover.covered, cover.distance or 0.0),
            default=Cover(False),
        )

    def reached(self, attacked: torch.Tensor, inputs: torch.Tensor) -> Cover:
        """Whether a member of the attack set, (C, H, W) in double precision, shows it covered."""
        return Cover(torch.equal(attacked.to(inputs.dtype), inputs))

    def _candidates(self, name: str, severity: int) -> list[torch.Tensor]:
        """Members of the attack set that may be near: those next to the severity, and to none."""
        wanted = [] if (nothing := self.transformation.identity) is None else [nothing]
        if SAME_AS.get(name) == self.transformation.name:
            row = torch.tensor(self.transformation.severities[severity - 1], dtype=torch.float64)
            wanted.append(row)
        near = [self._nearest(row) for row in wanted]
        images = self.clean[None].double()
        return [self.transformation.transform(images, row[None])[0] for row in near]

    def _nearest(self, row: torch.Tensor) -> torch.Tensor:
        """The member of the attack set nearest to a parameter."""
        if self.box is not None:
            return torch.maximum(torch.minimum(row, self.box[1]), self.box[0])
        assert self.values is not None
        values = self.values.double().cpu()
        return values[(values - row).norm(dim=1).argmin()]


class _ByCells(_ByTransformation):
    """Attack sets of cells: a transformed image, and a perturbation of it in the extra radius.

    The theorem counts what the perturbation does to the coordinates of the noise, so a larger one
    that moves these no more is covered as well.
    """

    measure = 'distance from the nearest transformed image, in standard deviations of the noise'

    def __init__(self, perturbation: TransformationCells, clean: torch.Tensor) -> None:
        found = perturbation.transformation
        if perturbation.values is not None:
            super().__init__(found, found.finite(perturbation.values), None, clean)
        else:
            assert perturbation.low is not None and perturbation.high is not None
            low, high = found.check_box(perturbation.low, perturbation.high)
            super().__init__(found, None, (low, high), clean)
        self.noise = perturbation.noise
        self.allowed = perturbation.extra_radius * self.noise.lipschitz

    def reach(self, tau: float) -> float:
        """The extra radius, whatever tau is."""
        return self.allowed

    def reached(self, attacked: torch.Tensor, inputs: torch.Tensor) -> Cover:
        if super().reached(attacked, inputs).covered:
            return Cover(True, distance=0.0)
        there, here = (
            self.noise.coordinates(images[None].double()) for images in (attacked, inputs)
        )
        # The tests have a margin for the noise, but not for this difference.
        distance = float((there - here).norm()) + MARGIN
        return Cover(distance <= self.allowed, distance=distance)


def _margin(noise: GaussianNoise, coordinates: int) -> float:
    """What rounding may move coordinates by, as for ``TransformationCells``."""
    return MARGIN + NOISE_EPS * max(1.0, noise.rounding_unit) * coordinates**0.5
