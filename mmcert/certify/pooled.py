"""Pooled tests: the draws of neighbouring cells of an attack set count together.

An attack set is covered by cells. Draws are taken around centres, each with its own number of
draws. If the smoothed probability of a class is at most 1/2 somewhere in a cell, a draw around
centre j hits with probability at most q_j, which grows with the distance of centre and cell. All
draws are independent, so a weighted sum of hits with weights that are not negative is
stochastically at most

    T = sum_j w_j Bin(n_j, q_j),

and P[T >= t] is a p-value for the observed sum t. It holds whatever the model is, as long as cells,
centres, weights and q_j are fixed before any draw. A component is certified if no cell is left in
which its class may have at most 1/2, so its p-value is the largest of its cells' p-values: an
intersection-union test, in which alpha is not divided (Berger, "Multiparameter hypothesis testing
and acceptance sampling", Technometrics 1982). The proof is in docs/theory/cells.md.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LARGEST_WEIGHT = 4
"""Weights are whole numbers up to this one: finer ones certify hardly more."""

SAFETY = 1e-10, 1e-14
"""Tails are made larger by this share, and this one for each draw: more than what rounding can take
from sums of positive numbers, and from binomial coefficients by logarithms."""

SMALLEST_SCORE = 1e-40
"""Smaller p-values are all rounded up to this one."""

SCORES = 4000
"""Number of scores: neighbouring p-values differ by 2.3 % or less."""

DESIGNS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.87, 0.9, 0.92, 0.94, 0.96, 0.975, 0.985, 0.993, 0.999)
"""Probabilities of a class for which weights are made; the best ones are taken."""

DEVIATIONS = 2.0
"""A design is judged by the probability at which a sum passes by so many standard deviations."""


def weighted_tail(
    probabilities: ArrayLike, draws: ArrayLike, weights: ArrayLike
) -> NDArray[np.float64]:
    """p-values of a weighted sum of hits: P[sum_j w_j Bin(n_j, q_j) >= t] for t = 0, 1, ....

    The distribution is a convolution of binomial ones. All its terms are positive, so nothing
    cancels, and the tails keep their relative precision; they are rounded up.

    Args:
        probabilities (np.ndarray): q_j, in (0, 1], shape (J,).
        draws (np.ndarray): n_j, integers of at least 0, shape (J,).
        weights (np.ndarray): w_j, integers of at least 0, shape (J,).

    Returns:
        np.ndarray: Shape (sum_j w_j n_j + 1,), not increasing, from 1 downwards.

    Examples:
        >>> weighted_tail([0.5], [2], [1]).round(6)
        array([1.  , 0.75, 0.25])
        >>> weighted_tail([0.5, 1.0], [2, 3], [2, 1]).round(6)
        array([1.  , 1.  , 1.  , 1.  , 0.75, 0.75, 0.25, 0.25])
    """
    density = np.ones(1)
    for q, n, w in zip(*map(np.asarray, (probabilities, draws, weights)), strict=True):
        if w == 0 or n == 0:
            continue
        spread = np.zeros(int(n * w) + 1)
        spread[:: int(w)] = _binomial(int(n), float(q))
        density = np.convolve(density, spread)
    tail = np.cumsum(density[::-1])[::-1] * (1 + SAFETY[0] + SAFETY[1] * np.sum(draws))
    tail[0] = 1.0
    return np.minimum(tail, 1.0)


def _binomial(n: int, q: float) -> NDArray[np.float64]:
    """Probabilities of 0, ..., n hits; by logarithms, so that none is lost to an overflow."""
    hits = np.arange(n + 1)
    ways = special.gammaln(n + 1) - special.gammaln(hits + 1) - special.gammaln(n - hits + 1)
    return np.exp(ways + special.xlogy(hits, q) + special.xlog1py(n - hits, -q))


def weights_for(probabilities: NDArray[np.float64], design: float) -> NDArray[np.int64]:
    """Whole weights that tell a class of probability ``design`` best from the null hypothesis.

    The most powerful test weighs a hit by log(p / q) - log((1 - p) / (1 - q)), its likelihood ratio
    (Neyman and Pearson); where q >= p it does not count. These weights are rounded to at most
    ``LARGEST_WEIGHT``. Any other weights would be valid as well.
    """
    q = np.minimum(probabilities, 1 - 1e-12)
    ratio = special.logit(design) - special.logit(np.maximum(q, 0.5))
    largest = ratio.max(initial=0.0)
    if largest <= 0:
        return np.zeros(len(q), dtype=np.int64)
    return np.rint(np.maximum(ratio, 0) / largest * LARGEST_WEIGHT).astype(np.int64)


def best_design(
    cases: Sequence[tuple[NDArray[np.float64], NDArray[np.integer]]], level: float
) -> tuple[float, float]:
    """The design whose weights certify the least certain class, in the worst of some cells.

    Args:
        cases (Sequence): For each of these cells, the probabilities q_j and the numbers of draws.
        level (float): Level of the tests.

    Returns:
        tuple[float, float]: The design, and the probability of the class at which the weighted sum
        exceeds what ``level`` takes by ``DEVIATIONS`` standard deviations in all of these cells;
        above 1 if no sum does.
    """
    needed, design = min(
        (max(_needed(q, draws, design, level) for q, draws in cases), design) for design in DESIGNS
    )
    return design, needed


def _needed(
    probabilities: NDArray[np.float64], draws: NDArray[np.integer], design: float, level: float
) -> float:
    weights = weights_for(probabilities, design)
    tail = weighted_tail(probabilities, draws, weights)
    total, attained = len(tail) - 1, int(np.count_nonzero(tail > level))
    if attained > total:
        # The closer to the level, the better.
        return 2.0 + float(tail[-1])
    squares = float(np.sum(weights**2 * draws))
    low, high = attained / total, 1.0
    for _ in range(30):
        p = (low + high) / 2
        reached = total * p - DEVIATIONS * (squares * p * (1 - p)) ** 0.5 >= attained
        low, high = (low, p) if reached else (p, high)
    return high


def score_table(smallest: float, count: int = SCORES) -> NDArray[np.float64]:
    """The p-values that scores 0, ..., ``count`` stand for: a geometric series from 1 down.

    The p-values of different cells are different numbers. To compare and store them they are
    rounded up to this table, whose smallest entry is ``smallest``, the smallest p-value that any
    outcome can have, or ``SMALLEST_SCORE``.

    >>> score_table(1e-8, 4).round(9).tolist()
    [1.0, 0.01, 0.0001, 1e-06, 1e-08]
    """
    end = np.log(max(min(smallest, 1.0), SMALLEST_SCORE))
    return np.exp(end * np.arange(count + 1) / count)


def scores(p_values: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.int32]:
    """The scores of p-values: each the largest whose entry of the table is not smaller.

    >>> scores(np.array([1.0, 0.5, 2e-5, 1e-20]), score_table(1e-8, 4)).tolist()
    [0, 0, 2, 4]
    """
    return (np.searchsorted(-table, -np.asarray(p_values), side='right') - 1).astype(np.int32)
