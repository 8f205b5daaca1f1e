"""Draws are rounded to a fixed grid, so that floating point arithmetic tells nothing of the input.

A floating point sum x + e is not a function of the real number x + e: its last bits depend on how
large x is compared to e, and a model that reads them sees x through the noise. Such a model can
break a certificate that takes arithmetic as exact (Jin, Ohrimenko, Rubinstein, "Getting a-Round
Guarantees: Floating-Point Attacks on Certified Robustness", 2022; Voracek and Hein, "Sound
Randomized Smoothing in Floating-Point Arithmetic", ICLR 2023). Here the smoothed function itself
begins with a rounding to a grid: what is certified is f(round(x + e)), and the model f receives
whole numbers of grid steps, all that is left of the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from mmcert.perturbations.base import version

RELATIVE_STEP = 2.0**-16
"""Largest grid step, as a share of the noise's scale."""


@dataclass(frozen=True)
class Lattice:
    """A grid of equally spaced numbers.

    What is exact. If the input lies on the grid, in grid steps x is a whole number, round(x + e) =
    x + round(e), and the sum of the two whole numbers is rounded, if at all, as a whole: the result
    depends on the ideal sum alone. Any other input is added to the noise in double precision before
    the rounding, where an error shows only if the sum comes as near to the middle between two grid
    points as double precision resolves.

    What is assumed. The law of the generator: that it gives each grid step the probability that
    the ideal noise has there.

    Args:
        per_unit (float): Grid points per unit of the input.
    """

    per_unit: float

    def steps(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """The input in grid steps, if it lies on the grid.

        A value lies on the grid if it is the one of its type that is nearest to a grid point: so
        does k / 255 in single precision for the grid of images.

        Args:
            inputs (torch.Tensor): Floating point, any shape.

        Returns:
            torch.Tensor | None: Whole numbers, of the input's shape, at least float32.
        """
        known = _STEPS.get(inputs)
        state = (version(inputs), self.per_unit)
        if known is not None and known[:2] == state and state[0] >= 0:
            return known[2]
        places = inputs.double().mul(self.per_unit).round_()
        lies = torch.equal(places.div(self.per_unit).to(inputs.dtype), inputs)
        found = places.to(_computed(inputs)) if lies else None
        _STEPS[inputs] = (*state, found)
        return found

    def add(self, inputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Noisy inputs, rounded to the grid.

        Args:
            inputs (torch.Tensor): Floating point, any shape.
            noise (torch.Tensor): Shape (B, *inputs.shape), *in grid steps*, float32 or float64;
                overwritten.

        Returns:
            torch.Tensor: The sums, in the unit of the input, of its type, shape (B, *inputs.shape).
        """
        whole = self.steps(inputs)
        steps = inputs.double().mul(self.per_unit) if whole is None else whole
        # Draw by draw on the CPU: a draw stays in the cache.
        for draws in noise if noise.device.type == 'cpu' else [noise]:
            if whole is None:
                draws.copy_(draws.double().add(steps).round_())
            else:
                draws.round_().add_(steps)
            draws.div_(self.per_unit)
        return noise.to(inputs.dtype)

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """Values rounded to the grid, float64.

        Args:
            values (torch.Tensor): float64, any shape, as exact as double precision is.

        Returns:
            torch.Tensor: The nearest grid points.
        """
        return values.mul(self.per_unit).round_().div_(self.per_unit)


IMAGES = Lattice(255 * 2.0**10)
"""For images in [0, 1] units: 1/1024 of a level of an 8-bit image, whose levels lie on it."""

POINTS = Lattice(2.0**20)
"""For transformed clouds: about a millionth of the unit of the coordinates."""


def lattice_below(scale: float) -> Lattice:
    """The grid for noise of some scale on values of any size.

    Args:
        scale (float): Of the noise, such as its standard deviation.

    Returns:
        Lattice: Its step is the largest power of two up to ``RELATIVE_STEP * scale``.
    """
    return Lattice(2.0 ** -math.floor(math.log2(RELATIVE_STEP * scale)))


def noise_buffer(inputs: torch.Tensor, draws: int) -> torch.Tensor:
    """An empty tensor for the noise of some draws, shape (B, *inputs.shape), at least float32."""
    return torch.empty((draws, *inputs.shape), dtype=_computed(inputs), device=inputs.device)


def _computed(inputs: torch.Tensor) -> torch.dtype:
    """What to compute in."""
    return torch.promote_types(inputs.dtype, torch.float32)


_STEPS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""What ``steps`` found for inputs that are still there: version, grid, and result."""
