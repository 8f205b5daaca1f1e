"""Checks of the arguments that the statistics share.

Each returns the value in its standard type, or raises a ``ValueError`` that gives the value and the
legal range.
"""

import math
import numbers
import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray


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


def check_k(k: int | float, num_components: int) -> int:
    """Turns the k of a k-FWER, an integer or a share of K in (0, 1), into an integer >= 1."""
    if isinstance(k, numbers.Real) and 0 < k < 1:
        return max(1, int(float(k) * num_components))
    try:
        return check_draws(k, 'k')  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(
            f'k must be an integer of at least 1 or a share of the components in (0, 1), got {k!r}'
        ) from None


def check_integers(values: ArrayLike, name: str) -> NDArray[np.integer]:
    """Checks an array of integers; an empty one may have any type."""
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in 'iu':
        raise ValueError(f'{name} must be integers, got an array of {array.dtype}')
    return array


def check_hits(hits: ArrayLike, n: int) -> NDArray[np.integer]:
    """Checks counts of agreement: an array of integers in [0, n], any shape."""
    n = check_draws(n)
    array = check_integers(hits, 'hits')
    low, high = array.min(initial=0), array.max(initial=0)
    if low < 0 or high > n:
        raise ValueError(f'hits must lie in [0, n] = [0, {n}], got {low if low < 0 else high}')
    return array


def check_order(order: ArrayLike, num_components: int) -> NDArray[np.integer]:
    """Checks an order of the components: a permutation of 0, ..., K - 1, shape (K,)."""
    array = check_integers(order, 'order')
    if array.shape != (num_components,):
        raise ValueError(
            f'order must be a permutation of the {num_components} components, got an array of '
            f'shape {array.shape}'
        )
    if (np.sort(array) != np.arange(num_components)).any():
        raise ValueError(f'order must hold each of 0, ..., {num_components - 1} once')
    return array


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, (bool, str)) and math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        return False
