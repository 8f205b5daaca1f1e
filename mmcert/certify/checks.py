"""Checks of the arguments that the statistics share."""

from __future__ import annotations

import math
import operator


def check_draws(n: int, name: str = 'n') -> int:
    """Checks a number of draws: an integer of at least 1."""
    try:
        value = operator.index(n)
    except TypeError:
        raise ValueError(f'{name} must be an integer, got {n!r}') from None
    if isinstance(n, bool) or value < 1:
        raise ValueError(f'{name} must be an integer of at least 1, got {n!r}')
    return value


def check_tau(tau: float) -> float:
    """Checks a probability threshold: a number in [0.5, 1)."""
    if not _is_number(tau) or not 0.5 <= tau < 1:
        raise ValueError(
            f'tau must lie in [0.5, 1), got {tau!r}: below 0.5 the smoothed class need not be '
            'unique, and probability 1 cannot be tested'
        )
    return float(tau)


def check_alpha(alpha: float) -> float:
    """Checks a significance level: a number in (0, 1)."""
    if not _is_number(alpha) or not 0 < alpha < 1:
        raise ValueError(
            f'alpha must lie in (0, 1), got {alpha!r}; it is the significance level (1 minus the '
            'confidence), for example 0.001'
        )
    return float(alpha)


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, (bool, str)) and math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        return False
