"""Exact binomial tails: the p-values and confidence bounds of vote counts."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from mmcert.certify.checks import check_alpha, check_draws, check_tau

SELECTIONS = ('holdout', 'same_draws')
"""Which draws are counted: those that did not choose the guess, or all of them."""

LARGEST_TAU = 1 - 1e-12
"""Larger thresholds are not searched."""

SMALLEST = float(np.finfo(np.float64).tiny)
"""Smaller p-values lose digits or become 0, so they are rounded up to this one."""

SMALLEST_ALPHA = 1e-200
"""Smallest alpha of a confidence bound: below 1e-240 the inverse is not accurate."""

CHUNK = 1 << 16
"""Components at a time, so that temporary arrays fit the cache."""


def upper_tail(hits: ArrayLike, n: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """``P[Bin(n, p) >= hits]``, by Boost's incomplete beta function; all three broadcast.

    Integers ``hits`` of at most 0 give 1, and of more than n give 0; p lies in (0, 1).
    """
    hits, n = np.asarray(hits), np.asarray(n)
    successes = np.clip(hits, 1, n)
    tail = special.betainc(successes, n - successes + 1, p)
    return np.where(hits <= 0, 1.0, np.where(hits > n, 0.0, tail))


def same_draws_p_values(
    hits: ArrayLike, n: int, tau: ArrayLike, num_components: int
) -> NDArray[np.float64]:
    """p-values of a class that was chosen on the very draws that are counted.

    The null hypothesis is that the counted class, whichever it is, has probability at most tau.
    With S(p) = P[Bin(n, p) >= k] and K components, the p-value of k hits is

        t_k = S(tau) + K * S(1 - tau)    for k > tau * (n - 1) + 1, and 1 for smaller k.

    It holds for any way of choosing the class, on these draws or on some of them. For a single
    component, S(tau) + S(1 - tau) would be enough; stepwise procedures need the factor K, since the
    choice makes the set of true nulls random. See docs/theory/same-draws.md.

    The second term is far below the first where tau is well above 1/2, and K times as large at
    tau = 1/2. There, tests use ``balanced_tau``, which is larger than tau. Not capped at 1.
    """
    minority = max(num_components, 1) * upper_tail(hits, n, np.subtract(1, tau))
    valid = np.asarray(hits) > np.asarray(tau) * (n - 1) + 1
    return np.where(valid, upper_tail(hits, n, tau) + minority, 1.0)


def best_tau(n: int, hits: ArrayLike, num_components: int) -> NDArray[np.float64]:
    """Thresholds in [0.5, 1) at which the same-draw p-value of each number of hits is smallest.

    S(tau) + K * S(1 - tau) falls and then rises over [1/2, 1), and its derivative is 0 where
    (tau / (1 - tau))^(2 k - 1 - n) = K. There are n >= 2 draws and k > (n + 1) / 2 hits.
    """
    exponent = math.log(max(num_components, 1)) / (2 * np.asarray(hits) - 1 - n)
    return np.asarray(np.minimum(special.expit(exponent), LARGEST_TAU))


@functools.lru_cache(maxsize=1024)
def balanced_tau(n: int, num_components: int, first: float, later: float) -> float:
    """The least threshold, in [0.5, 1), at which same draws are tested.

    Of n counted draws, let k be the smallest number of hits that attains ``first``, the critical
    value of a first rejection, at its own ``best_tau``, or n if none does. The result is the best
    threshold for k hits, or the best one for ``later``, the critical value after some rejections,
    where that does not raise k. It is a function of the plan, and must not depend on the votes.
    ``first`` may have been rounded to 0.
    """
    if n < 2:
        return 0.5
    hits = np.arange((n + 3) // 2, n + 1)
    taus = best_tau(n, hits, num_components)
    smallest = np.maximum(same_draws_p_values(hits, n, taus, num_components), SMALLEST)

    def least(critical: float) -> int:
        attained = smallest <= critical
        return int(np.argmax(attained)) if attained[-1] else len(hits) - 1

    begin, after = least(first), least(later)
    at_later = same_draws_p_values(hits[begin], n, taus[after], num_components)
    return float(taus[after if max(float(at_later), SMALLEST) <= first else begin])


def check_selection(selection: str, legal: Sequence[str] = SELECTIONS) -> None:
    """Raises a ``ValueError`` that lists the legal selections if this is none of them."""
    if selection not in legal:
        raise ValueError(f'unknown selection {selection!r}; legal: {", ".join(legal)}')


@functools.lru_cache(maxsize=256)
def p_value_table(
    n: int, tau: float, selection: str, num_components: int = 1
) -> NDArray[np.float64]:
    """Every attainable p-value of a selection, by the number of counted hits; exact.

    They test H0: P(f(x + noise) = guess) <= tau. For 'holdout', whose hits are independent of the
    guess, the p-value of k hits is ``P[Bin(n, tau) >= k]`` (Fischer, Baader, Vechev, "Scalable
    Certified Segmentation via Randomized Smoothing", ICML 2021). For 'same_draws' see
    ``same_draws_p_values``.

    Args:
        n (int): Number of counted draws, at least 1.
        tau (float): Probability threshold in [0.5, 1).
        selection (str): One of ``SELECTIONS``.
        num_components (int): Size of the family, K, which matters for 'same_draws'.

    Returns:
        np.ndarray: Shape (n + 1,), float64, not increasing, at least ``SMALLEST``, not writable.

    Raises:
        ValueError: If a value is out of range; the message gives the value.

    Examples:
        >>> from mmcert.certify.binomial import p_value_table
        >>> p_value_table(2, 0.5, 'holdout')
        array([1.  , 0.75, 0.25])
    """
    check_selection(selection)
    hits, tau = np.arange(check_draws(n) + 1), check_tau(tau)
    if selection == 'same_draws':
        table = same_draws_p_values(hits, n, tau, num_components)
    else:
        table = upper_tail(hits, n, tau)
    table = np.clip(table, SMALLEST, 1.0)
    table.flags.writeable = False
    return table


def log_smallest_p_value(n: int, tau: float, selection: str, num_components: int = 1) -> float:
    """Logarithm of the p-value of n unanimous draws; see ``p_value_table``.

    For 'same_draws' it is that of the threshold, tau or more, at which it is smallest.
    """
    if selection == 'holdout':
        return n * math.log(tau)
    if n == 1:
        return 0.0
    tau = max(tau, float(best_tau(n, n, num_components)))
    second = math.log(max(num_components, 1)) + n * math.log1p(-tau)
    return min(0.0, float(np.logaddexp(n * math.log(tau), second)))


def histogram(hits: NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """How many components have 0, ..., n hits, shape (n + 1,), in little memory."""
    counts = np.zeros(n + 1, dtype=np.int64)
    flat = hits.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        counts += np.bincount(flat[start : start + CHUNK], minlength=n + 1)
    return counts


def clopper_pearson_table(n: int, alpha: float) -> NDArray[np.float64]:
    """One-sided lower confidence bounds of a binomial probability, by the number of hits; exact.

    The probability that the bound of the observed hits exceeds the true probability is at most
    ``alpha`` (Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 1934).
    They increase from 0, shape (n + 1,). For alpha below ``SMALLEST_ALPHA`` they are zeros, which
    are bounds as well.

    Raises:
        ValueError: If n or alpha is out of range.
    """
    n, alpha = check_draws(n), check_alpha(alpha)
    if alpha < SMALLEST_ALPHA:
        return np.zeros(n + 1)
    successes = np.arange(1, n + 1)
    bounds = special.betaincinv(successes, n - successes + 1, alpha)
    # For a few hits at a tiny alpha the inverse may not be found: 0 is a bound, too.
    return np.concatenate([[0.0], np.nan_to_num(bounds)])
