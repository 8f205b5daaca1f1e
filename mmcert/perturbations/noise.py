"""Additive noise: certificates against perturbations of bounded norm."""

from collections.abc import Sequence
from typing import Any

import torch

from mmcert.perturbations.base import LARGEST_TAU, Perturbation, register, straight_through
from mmcert.perturbations.distributions import Distribution, Gaussian, Laplace
from mmcert.perturbations.lattice import (
    HALF,
    LEVELS,
    SINGLE_STEPS,
    on_grid,
    on_levels,
    points_per_unit,
)
from mmcert.perturbations.noise_level import validate_positive, validate_sigma

IMAGE_UNIT = '[0, 1] image units'

IMAGE_STAGE = (
    'attack and smoothing act at the same stage, on the image in [0, 1] units as it reaches the '
    'smoothed model, before any scaling, normalisation and padding inside it'
)
LEVELS_ROUNDING = (
    'the smoothed function first rounds its noisy input to whole levels of an 8-bit image'
)
NOT_CLIPPED = 'none, neither after the attack nor after the smoothing'

POINT_UNIT = 'units of the coordinates as the pipeline delivers them'

LARGEST_VALUE = 8.0
"""Image values above this one, and what an attack may add, are taken for levels of 0-255."""


class AdditiveNoise(Perturbation):
    """I.i.d. noise of any distribution on every value of an image.

    If a class has probability above tau under the noise, it keeps a probability above the target at
    every shift of the input whose norm is at most the radius of the distribution: the theorem is in
    the docstring of each ``Distribution``. The noise is not clipped.

    The sum of image and noise is rounded to whole levels of an 8-bit image. The rounding is the
    first step of the function that is smoothed, so the theorem holds with it, and for 8-bit images
    the rounded sum is exact: see ``mmcert.perturbations.lattice`` for what that rules out and what
    is still assumed. The base model's own arithmetic, whatever it is, is part of the base model.

    For noise of your own, write a ``Distribution`` with a ``norm``, and register a subclass whose
    arguments are attributes of the same names.

    Args:
        noise (Distribution): Of each value, in [0, 1] image units.

    Raises:
        ValueError: If the radius of the distribution is that of a single value.
    """

    unit = IMAGE_UNIT
    stage = IMAGE_STAGE
    rounding = LEVELS_ROUNDING
    attack_text = 'perturbation of {norm} norm up to {radius:.4g} (in {unit}, over the whole image)'
    _applied = 'added to the input, not clipped'

    def __init__(self, noise: Distribution) -> None:
        if noise.norm is None:
            raise ValueError(f'{noise!r} has a radius for one value, and none for all of an input')
        self.noise, self.norm = noise, noise.norm
        self.distribution = self._describe()
        self.formula = f'{{delta : ||delta||_{noise.norm[1:]} <= radius}}, {self._applied}'

    def _describe(self) -> str:
        return f'i.i.d. {self.noise.describe()} on every value'

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses an image that is evidently in 0-255 units.

        An attack within any radius that can be certified stays below the bound.
        """
        check_range(inputs, LARGEST_VALUE - 1 + self.radius(LARGEST_TAU))

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise plus 1/2, in levels of an 8-bit image, shape (B, *inputs.shape)."""
        dtype = torch.float32 if self.noise.scale * LEVELS <= SINGLE_STEPS else torch.float64
        shape = (len(generators), *inputs.shape)
        noise = torch.empty(shape, dtype=dtype, device=inputs.device)
        return self.noise.fill_batch(noise, generators, LEVELS, HALF)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds the noise to a floating point input of any shape, in the memory of the noise."""
        return on_levels(inputs, parameters)

    def apply_differentiably(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """As ``apply``, with the gradient of a sum; see ``Perturbation``."""
        return straight_through(self.apply(inputs.detach(), parameters), inputs)

    def radius(self, tau: float, target: float = 0.5) -> float:
        """The radius of the distribution, in the norm that it names; see ``Perturbation``."""
        return self.noise.radius(tau, target)

    def _extra(self, tau: float) -> dict[str, Any]:
        return {'padding': 'none needed', 'clipping': NOT_CLIPPED}


@register
class GaussianNoise(AdditiveNoise):
    """I.i.d. Gaussian noise on every value of an image: certificates against l2 perturbations.

    The radius is sigma * (Phi^{-1}(tau) - Phi^{-1}(target)), derived in ``Gaussian``.

    Args:
        sigma (float): Noise level, in [0, 1] image units.

    Raises:
        ValueError: If sigma is not positive, or evidently in 0-255 units.

    Example:
        >>> noise = GaussianNoise(sigma=0.25)
        >>> round(noise.radius(0.75), 4)
        0.1686
        >>> x = torch.zeros(3, 4, 5)
        >>> generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        >>> noise.apply(x, noise.draw(x, generators)).shape
        torch.Size([2, 3, 4, 5])
        >>> noise.guarantee(0.75).describe().split(' changes')[0]
        'no perturbation of l2 norm up to 0.1686 (in [0, 1] image units, over the whole image)'
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = validate_sigma(sigma)
        super().__init__(Gaussian(self.sigma))

    @property
    def lipschitz(self) -> float:
        """That of ``coordinates`` in the l2 norm of the image."""
        return 1 / self.sigma

    @property
    def rounding_unit(self) -> float:
        """A level of an 8-bit image in standard deviations of the noise."""
        return 1 / (LEVELS * self.sigma)

    def coordinates(self, images: torch.Tensor) -> torch.Tensor:
        """Where images lie in a space in which the noise is standard normal.

        What the model receives under a draw on image x is a function of coordinates(x) + N(0, I).

        Args:
            images (torch.Tensor): Shape (B, C, H, W), float64, in [0, 1] units.

        Returns:
            torch.Tensor: Shape (B, D), float64.
        """
        return images.flatten(1) / self.sigma

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds the noise to a floating point input of any shape, in the memory of the noise."""
        return self.apply_at(inputs, parameters, inputs.dtype)

    def apply_at(
        self, image: torch.Tensor, parameters: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """As ``apply``, to an image in double precision, giving images of another type."""
        return on_levels(image, parameters, dtype)


@register
class LaplaceNoise(AdditiveNoise):
    """I.i.d. Laplace noise on every value of an image: certificates against l1 perturbations.

    The radius is b * ln((1 - target) / (1 - tau)), derived in ``Laplace``.

    Args:
        b (float): Scale, in [0, 1] image units; the standard deviation is sqrt(2) b.

    Raises:
        ValueError: If b is not positive, or evidently in 0-255 units.
    """

    def __init__(self, b: float) -> None:
        self.b = validate_sigma(b, 'b')
        super().__init__(Laplace(self.b))


class PointNoise(AdditiveNoise):
    """I.i.d. noise on the coordinates of all points.

    The certificate is that of ``AdditiveNoise``, with the norm over all points together. It holds
    for any columns: where an adapter perturbs others than x, y and z, its statement names them.
    Noise and sum are computed in double precision, and rounded to a grid of steps of at most 1 /
    65,536 of the noise's scale, which is the first step of the function that is smoothed.

    Args:
        noise (Distribution): Of each value, in the unit of the coordinates.
    """

    domain = 'points'
    component = 'point'
    unit = POINT_UNIT
    stage = (
        'the columns without noise stay as they are; attack and smoothing act at the same stage, '
        'on the coordinates as the pipeline delivers them, before voxelisation, cropping or '
        'normalisation inside the model'
    )
    attack_text = (
        'displacement of the points by an {norm} norm up to {radius:.4g} (in {unit}, over all '
        'points together)'
    )
    _applied = (
        'added to the coordinates of the points; their number, their order and the columns without '
        'noise stay'
    )

    def __init__(self, noise: Distribution) -> None:
        super().__init__(noise)
        self.rounding = (
            'the smoothed function first rounds the noisy coordinates to multiples of '
            f'{1 / points_per_unit(noise.scale):.4g}'
        )

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses a cloud smaller than the scale of the noise: a sign of a wrong unit."""
        extent = float((inputs.amax(0) - inputs.amin(0)).max()) if len(inputs) else 0.0
        if not self.noise.scale <= extent:
            raise ValueError(
                f'sigma={self.noise.scale} exceeds the largest extent of the cloud, {extent:.4g}: '
                'sigma is in the unit of the coordinates as the pipeline delivers them'
            )

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise, shape (B, N, 3), float64."""
        shape = (len(generators), *inputs.shape)
        noise = torch.empty(shape, dtype=torch.float64, device=inputs.device)
        return self.noise.fill_batch(noise, generators)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds the noise to the coordinates, changing it in place."""
        return on_grid(inputs.double(), parameters, self.noise.scale).to(inputs.dtype)

    def _extra(self, tau: float) -> dict[str, Any]:
        return {}


@register
class CoordinateNoise(PointNoise):
    """I.i.d. Gaussian noise on the coordinates of all points, certified as ``GaussianNoise`` is.

    The l2 norm is over all points together: sqrt(sum of the squared displacements of the points).

    Args:
        sigma (float): Positive noise level, in the unit of the coordinates that the pipeline
            delivers.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = validate_positive(sigma)
        super().__init__(Gaussian(self.sigma))


def check_range(inputs: torch.Tensor, overshoot: float) -> None:
    """Refuses what is evidently no image in [0, 1] units, attacked or not, with a ValueError.

    ``overshoot`` says how far beyond [0, 1] an attack may take its values.
    """
    if not inputs.is_floating_point():
        raise ValueError(f'an image must be floating point, got {inputs.dtype}')
    if inputs.numel() == 0:
        raise ValueError(f'the image is empty: shape {tuple(inputs.shape)}')
    low, high = (float(value) for value in inputs.aminmax())
    if not (low >= -overshoot and high <= 1 + overshoot):
        raise ValueError(
            f'expected an image in [0, 1], attacked or not, got values from {low:.4g} to '
            f'{high:.4g}: the scales of the perturbation are in these units; divide 0-255 images '
            'by 255'
        )
