"""Exact binomial tails: the p-values and confidence bounds of vote counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mmcert.certify.checks import check_alpha, check_draws, check_tau


def upper_tail_table(n: int, tau: float) -> NDArray[np.float64]:
    """Every attainable p-value: ``P[Bin(n, tau) >= k]`` for k = 0, ..., n.

    Args:
        n (int): Number of draws, at least 1.
        tau (float): Success probability in [0.5, 1).

    Returns:
        np.ndarray: Shape (n + 1,), float64, not increasing, with a first entry of exactly 1.

    Raises:
        ValueError: If a value is out of range.
    """
    n, tau = check_draws(n), check_tau(tau)
    return np.asarray(stats.binom.sf(np.arange(n + 1) - 1, n, tau), dtype=np.float64)


def p_values(hits: ArrayLike, n: int, tau: float) -> NDArray[np.float64]:
    """Exact one-sided p-value of each component's null hypothesis.

    Tests H0: P(f(x + noise) = guess) <= tau with the statistic ``hits`` (Fischer, Baader, Vechev,
    "Scalable Certified Segmentation via Randomized Smoothing", ICML 2021). Valid only if ``hits``
    come from draws independent of those that chose the guess.

    Args:
        hits (np.ndarray): Agreements with the guess, any shape, integers in [0, n].
        n (int): Number of estimation draws, at least 1.
        tau (float): Probability threshold in [0.5, 1).

    Returns:
        np.ndarray: p-values, the shape of ``hits``, float64.

    Raises:
        ValueError: If a value is out of range; the message gives the value.
    """
    table = upper_tail_table(n, tau)
    return table[check_hits(hits, n)]


def clopper_pearson_lower(hits: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """One-sided lower confidence bound of a binomial probability, exact.

    The probability that the bound exceeds the true probability is at most ``alpha`` (Clopper and
    Pearson, "The use of confidence or fiducial limits", Biometrika 1934).

    Args:
        hits (np.ndarray): Successes, any shape, integers in [0, n].
        n (int): Number of draws, at least 1.
        alpha (float): Significance level in (0, 1) of each single bound.

    Returns:
        np.ndarray: Lower bounds, the shape of ``hits``, float64; 0 where there were no hits.

    Raises:
        ValueError: If a value is out of range; the message gives the value.
    """
    alpha = check_alpha(alpha)
    hits = check_hits(hits, n)
    successes = np.arange(1, n + 1)
    table = np.concatenate([[0.0], stats.beta.ppf(alpha, successes, n - successes + 1)])
    return np.asarray(table[hits], dtype=np.float64)


def min_hits(n: int, tau: float, level: float) -> int | None:
    """Smallest number of hits whose p-value is at most ``level``.

    Args:
        n (int): Number of draws, at least 1.
        tau (float): Probability threshold in [0.5, 1).
        level (float): Level of the single test, in (0, 1).

    Returns:
        int | None: The number of hits; None if even n hits are not enough.

    Raises:
        ValueError: If a value is out of range.
    """
    attained = upper_tail_table(n, tau) <= check_alpha(level)
    return int(np.argmax(attained)) if attained[-1] else None


def check_hits(hits: ArrayLike, n: int) -> NDArray[np.integer]:
    """Checks counts of agreement: integers in [0, n].

    Args:
        hits (np.ndarray): Counts, any shape.
        n (int): Number of draws, at least 1.

    Returns:
        np.ndarray: The counts as an integer array of the same shape.

    Raises:
        ValueError: If they are not integers or one is out of range; the message gives it.
    """
    n = check_draws(n)
    array = np.asarray(hits)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in 'iu':
        raise ValueError(f'hits must be integers, got an array of {array.dtype}')
    low, high = array.min(), array.max()
    if low < 0 or high > n:
        raise ValueError(f'hits must lie in [0, n] = [0, {n}], got {low if low < 0 else high}')
    return array
