"""The transformations that a certificate speaks of, as parameters that can be tried."""

import math
from dataclasses import dataclass
from itertools import product

import torch

from mmcert.perturbations import (
    BrightnessContrast,
    CyclicTranslation,
    Enumeration,
    GaussianBlur,
    Perturbation,
    SurrogateTransform,
    TransformationCells,
)
from mmcert.transformations import Parameter, Transformation, build


@dataclass(frozen=True, eq=False)
class ParameterSet:
    """What may be tried against a certificate.

    Attributes:
        transformation (Transformation): The attack.
        values (torch.Tensor): All parameters of a finite set, or a grid of an interval, shape
            (N, P), float64.
        box (tuple[torch.Tensor, torch.Tensor] | None): The ends of an interval, each of shape (P,).
        smoothing (Perturbation | None): What smooths the model; None for the base model itself.
    """

    transformation: Transformation
    values: torch.Tensor
    box: tuple[torch.Tensor, torch.Tensor] | None
    smoothing: Perturbation | None


class ContrastOfBrightness(Transformation):
    """e^k (x + b), as ``mmcert.BrightnessContrast`` attacks; parameters (k, b)."""

    name = 'contrast_of_brightness'
    parameters = (Parameter('k', 'log', -4, 4, 0), Parameter('b', 'image', -1, 1, 0))
    definition = 'e^k (x + b), not clipped'
    severities = ()

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """See the class."""
        k, b = parameters.to(images.dtype)[:, :, None, None, None].unbind(1)
        return torch.exp(k) * (images + b)


def parameter_set(perturbation: Perturbation, tau: float, points: int = 9) -> ParameterSet:
    """The attack set that certificates at a threshold speak of.

    An interval is a grid of ``points`` along each axis, its ends included.

    Raises:
        ValueError: If certificates of this perturbation are not about such a set.

    Example:
        >>> from mmcert.perturbations import Exponential
        >>> blur = GaussianBlur(Exponential(mean=4.0))
        >>> parameter_set(blur, 0.75, points=3).values.flatten().round(decimals=2).tolist()
        [0.0, 1.39, 2.77]
    """
    if isinstance(perturbation, SurrogateTransform) and perturbation.attack is not None:
        found = perturbation.surrogate.transformation
        values, interval = perturbation.attack.values, perturbation.attack.mode != 'finite'
        box = (values[0], values[1]) if interval else None
        return _made(found, values, box, points, perturbation)
    if isinstance(perturbation, TransformationCells):
        found, noise = perturbation.transformation, perturbation.noise
        assert isinstance(noise, Perturbation)
        if perturbation.values is not None:
            return ParameterSet(found, found.finite(perturbation.values), None, noise)
        assert perturbation.low is not None and perturbation.high is not None
        ends = found.grid(perturbation.low, perturbation.high, 2)
        return _made(found, ends, (ends[0], ends[-1]), points, noise)
    if isinstance(perturbation, Enumeration):
        found = perturbation.transformation
        return ParameterSet(found, found.finite(perturbation.enumerated), None, None)
    if isinstance(perturbation, GaussianBlur):
        found, radius = build('gaussian_blur'), perturbation.radius(tau)
        ends = torch.tensor([[0.0], [radius]]).double()
        return _made(found, ends, (ends[0], ends[1]), points, perturbation)
    if isinstance(perturbation, CyclicTranslation):
        radius = perturbation.radius(tau)
        far, near = int(radius), int(radius / math.sqrt(2))
        axes = [[x * far, y * far] for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        corners = [[x * near, y * near] for x, y in product((-1, 1), repeat=2)]
        cyclic = build({'type': 'translation', 'padding': 'cyclic'})
        return ParameterSet(cyclic, torch.tensor(axes + corners).double(), None, perturbation)
    if isinstance(perturbation, BrightnessContrast):
        most = perturbation.radius(tau)
        factors = perturbation.contrast_range if perturbation.covers(tau) else (1.0, 1.0)
        ends = torch.tensor([[math.log(f), b] for f, b in zip(factors, (-most, most), strict=True)])
        ends = ends.double()
        return _made(ContrastOfBrightness(), ends, (ends[0], ends[1]), 3, perturbation)
    raise ValueError(
        f'certificates of {perturbation!r} are not about the parameters of a transformation'
    )


def _made(
    found: Transformation,
    values: torch.Tensor,
    box: tuple[torch.Tensor, torch.Tensor] | None,
    points: int,
    smoothing: Perturbation,
) -> ParameterSet:
    if box is not None:
        values = found.grid(*box, points)
    return ParameterSet(found, values, box, smoothing)
