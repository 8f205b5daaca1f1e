"""Checks of noise levels, shared by the perturbations and the training noise."""

import math
from collections.abc import Sequence

MAX_SIGMA = 5.0
"""Largest noise level taken for [0, 1] image units; the papers go to 2."""


def validate_positive(value: float, name: str = 'sigma') -> float:
    """The number as a float; a ValueError that names it unless it is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'{name} must be a finite number, got {value!r}')
    if value <= 0:
        raise ValueError(f'{name} must be positive, got {value}')
    return float(value)


def validate_sigma(sigma: float, name: str = 'sigma') -> float:
    """Checks the scale of noise in [0, 1] image units, a standard deviation or another.

    Raises:
        ValueError: If it is not a positive finite number, or evidently in 0-255 units.
    """
    level = validate_positive(sigma, name)
    if level > MAX_SIGMA:
        raise ValueError(
            f'{name}={sigma} looks like 0-255 units; mmcert takes [0, 1] image units: did you mean '
            f'{name}={sigma / 255:.4g}?'
        )
    return level


def validate_sigma_range(sigma: float | Sequence[float]) -> tuple[float, float]:
    """Checks a noise level or a range of them, in [0, 1] image units.

    Args:
        sigma (float | Sequence[float]): One level, or (low, high) with 0 <= low <= high.

    Returns:
        tuple[float, float]: The range (low, high); both the same for one level.

    Raises:
        ValueError: If a level is not valid or the range is not one.
    """
    if isinstance(sigma, (int, float)):
        level = validate_sigma(sigma)
        return level, level
    if len(sigma) != 2:
        raise ValueError(f'sigma must be a number or (low, high), got {sigma!r}')
    low, high = sigma
    high = validate_sigma(high)
    if not 0 <= low <= high:
        raise ValueError(f'a range of sigma needs 0 <= low <= high, got {tuple(sigma)}')
    return float(low), high


def validate_prob(prob: float) -> float:
    """Checks the share of the inputs that training perturbs."""
    if not 0 <= prob <= 1:
        raise ValueError(f'prob must lie in [0, 1], got {prob}')
    return prob
