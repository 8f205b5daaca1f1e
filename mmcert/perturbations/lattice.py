"""Draws are rounded to a fixed grid, so that floating point noise does not give the input away.

A floating point sum x + e is not a function of the real number x + e: its last bits depend on how
large x is compared to e, and a model that reads them sees x through the noise. Such a model can
break a certificate that takes arithmetic as exact (Jin, Ohrimenko, Rubinstein, "Getting a-Round
Guarantees: Floating-Point Attacks on Certified Robustness", 2022; Voracek and Hein, "Sound
Randomized Smoothing in Floating-Point Arithmetic", ICLR 2023). Here the smoothed function itself
begins with a rounding: what is certified is f(round(x + e)), and the model f receives the value of
a whole number of grid steps, and nothing else of the sum.

Exact: on the grid of images, the levels of 8-bit images, x is whole in grid steps, and
round(x + e) = x + round(e) without any error, since half a step is always rounded up. What the
model receives is a function of the ideal sum.

Assumed: the generator, that round(x + e) has the probabilities that the ideal noise gives it. A
single precision normal number of s steps of scale lies on a grid of its own, of about
2^24 / s points in a step, so these probabilities are off by a share of about s / 2^24. A test that
knows all of it and looks at K values tells two inputs apart by about sqrt(K) s / 2^24 standard
deviations: 0.01 for s = 64 (sigma = 0.25) and the 6 million values of a 1024 x 2048 image. This is
an estimate and not a bound: it says how good the assumption is, and no certificate rests on it.
Where s exceeds ``SINGLE_STEPS``, and on all finer grids, the noise is drawn in double precision.
"""

import math

import torch

LEVELS = 255
"""Grid steps of images per unit: those of an 8-bit image."""

SINGLE_STEPS = 256
"""Largest scale, in grid steps, of noise that is drawn in single precision."""

RELATIVE_STEP = 2.0**-16
"""Largest step of the other grids, as a share of the noise's scale."""

FINE = LEVELS * 2.0**10
"""Grid points per unit for transformed images, which are computed in double precision."""

POINTS = 2.0**20
"""Grid points per unit for transformed clouds, which are computed in double precision."""

HALF = 0.5
"""Added before rounding down: halves go up."""


def on_levels(
    inputs: torch.Tensor, noise: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Noisy images (B, *inputs.shape), rounded to whole levels, of ``dtype`` or the input's.

    A value that is the nearest one of its type to a level stands for that level. Any other value
    is added by its whole and its remaining part. The same level is the same value of a type,
    whatever the input was.

    Args:
        inputs (torch.Tensor): Floating point, any shape, in [0, 1] units.
        noise (torch.Tensor): The noise plus 1/2, in levels, shape (B, *inputs.shape); its memory is
            used for the result.
        dtype (torch.dtype | None): Of the result.
    """
    dtype = dtype or inputs.dtype
    drawn = noise.dtype
    whole, part = (found.to(drawn) for found in _whole_and_part(inputs))
    # Asking a CUDA device would hold up its queue.
    levels_alone = inputs.device.type == 'cpu' and not bool(part.any())
    # Draw by draw on the CPU: a draw stays in the cache.
    for values in noise if noise.device.type == 'cpu' else [noise]:
        if not levels_alone:
            values.add_(part)
        values.floor_().add_(whole)
        if drawn == dtype:
            values.div_(LEVELS)
    if drawn == dtype:
        return noise
    return noise.to(torch.promote_types(dtype, torch.float32)).div_(LEVELS).to(dtype)


def _whole_and_part(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in levels, as whole numbers and what remains, in [0, 1); at least float32."""
    computed = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    nearest = computed.mul(LEVELS).round_()
    restored = nearest.div(LEVELS).to(inputs.dtype)
    if inputs.device.type == 'cpu' and torch.equal(restored, inputs):
        return nearest, nearest.new_zeros(())
    is_level = restored == inputs
    exact = inputs.double().mul(LEVELS)
    below = exact.floor()
    part = exact.sub(below).masked_fill_(is_level, 0)
    return torch.where(is_level, nearest.double(), below), part


def rounded(values: torch.Tensor, per_unit: float) -> torch.Tensor:
    """Float64 values at the nearest of ``per_unit`` grid points per unit; 0 has no sign."""
    return values.mul(per_unit).add_(HALF).floor_().add_(0.0).div_(per_unit)


def points_per_unit(scale: float) -> float:
    """The grid for noise of some scale on values of any size.

    Its points per unit are a power of two, and a step is at most ``RELATIVE_STEP * scale``.
    """
    return 2.0 ** -math.floor(math.log2(RELATIVE_STEP * scale))


def on_grid(inputs: torch.Tensor, noise: torch.Tensor, scale: float) -> torch.Tensor:
    """Values of any size plus noise, on the grid of ``points_per_unit(scale)``.

    Computed in double precision; the noise, (B, ...) and float64, is changed in place.
    """
    return rounded(noise.add_(inputs), points_per_unit(scale))
