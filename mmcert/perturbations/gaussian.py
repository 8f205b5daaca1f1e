"""Additive Gaussian noise: certificates against l2 perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.special import ndtri

from mmcert.certify.checks import check_tau
from mmcert.perturbations.base import Perturbation
from mmcert.perturbations.lattice import HALF, LEVELS, level_noise, on_levels
from mmcert.perturbations.noise_level import validate_sigma
from mmcert.perturbations.standard import fill_normal

ROUNDING = 'the smoothed function first rounds its noisy input to whole levels of an 8-bit image'

LARGEST_VALUE = 8.0
"""Image values above this one are taken for levels of 0-255."""


class GaussianNoise(Perturbation):
    """I.i.d. Gaussian noise on every value of the input.

    If a class has probability above tau under N(0, sigma^2 I), it keeps a probability above 1/2 at
    every shift of l2 norm at most sigma * Phi^{-1}(tau) (Cohen, Rosenfeld, Kolter, "Certified
    Adversarial Robustness via Randomized Smoothing", ICML 2019). The noise is not clipped.

    The sum of image and noise is rounded to whole levels of an 8-bit image. The rounding is the
    first step of the function that is smoothed, so the theorem holds with it, and for 8-bit images
    the rounded sum is exact: see ``mmcert.perturbations.lattice`` for what that rules out and what
    is still assumed. The base model's own arithmetic, whatever it is, is part of the base model.

    Args:
        sigma (float): Noise level, in [0, 1] image units.

    Raises:
        ValueError: If sigma is not positive, or evidently in 0-255 units.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = validate_sigma(sigma)

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses an image that is evidently in 0-255 units: sigma is in [0, 1] ones.

        An attack within any radius that can be certified stays far below.
        """
        if not inputs.numel():
            return
        high = float(inputs.max())
        if high > LARGEST_VALUE + 10 * self.sigma:
            raise ValueError(
                f'expected an image in [0, 1], attacked or not, got values up to {high:.4g}: sigma '
                'is in these units; divide 0-255 images by 255'
            )

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise plus 1/2, in levels of an 8-bit image, shape (B, *inputs.shape)."""
        scale = self.sigma * LEVELS
        noise = level_noise(inputs, len(generators), scale)
        return fill_normal(noise, generators, scale, HALF)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds noise to a floating point input, in the noise's memory; see ``Perturbation``."""
        return on_levels(inputs, parameters)

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """The l2 radius sigma * (Phi^{-1}(tau) - Phi^{-1}(floor)), in the unit of sigma."""
        left = float(ndtri(check_tau(tau)) - ndtri(check_tau(floor)))
        return self.sigma * max(left, 0.0)

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The l2 ball that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        radius = self.radius(tau)
        return {
            'perturbation': type(self).__name__,
            'law': 'N(0, sigma^2 I)',
            'sigma': self.sigma,
            'attack_set': '{delta : ||delta||_2 <= radius}, added to the input, not clipped',
            'norm': 'l2',
            'radius': radius,
            'unit': '[0, 1] image units',
            'rounding': ROUNDING,
            'words': (
                f'no perturbation of l2 norm up to {radius:.4g} (in [0, 1] image units, over the '
                'whole image) changes the class that the smoothed model gives a certified component'
            ),
        }

    def spec(self) -> dict[str, Any]:
        """Class name and sigma."""
        return {'type': 'GaussianNoise', 'sigma': self.sigma}

    def __repr__(self) -> str:
        """Class name and sigma."""
        return f'{type(self).__name__}(sigma={self.sigma})'
