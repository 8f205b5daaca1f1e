"""Radii from worst sets that have no closed form, as proven lower bounds by quadrature.

The parameter has the density p, and q after the attack. A set A with P(A) >= tau has, for every
factor c > 0,

    Q(A) >= int_A min(q, c p) >= int min(q, c p) - c (1 - tau),

with equality for the worst set and the best c. So every c gives a lower bound of the probability
that a class keeps, and only the error of one integral has to be bounded. Proofs are on the page
"Radii" of the documentation. Arithmetic is taken as exact up to ``MARGIN``.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfinv, ndtr, ndtri

Numbers = NDArray[np.float64]

MARGIN = 1e-9
"""What probabilities are lowered by: more than errors of quadrature and rounding together."""

# Brightness and contrast. In units of the scales the parameter is N(0, I) before the attack and
# N((m, n), diag(1, s^2)) after it, with m = |k| / sigma_k, n = |b| / sigma_b and s = e^-k.

REACH = 6.5
"""Nodes lie within so many standard deviations."""

QUADRATURE_ERROR = 1e-10
"""Bound of the error of the trapezoidal rule."""

STEEPEST, MOST_CURVED = 50.0, 20.0
"""Largest n s / m and |1 - s^2| / m of an integral: below that m, a larger one stands for it."""

LARGEST_CONTRAST = 2.0
"""Contrasts of a larger |k| keep the published bound."""

FIRST_CELLS, MOST_CELLS = 8, 3000
"""Cells of a range of contrasts, at first and at most."""


def published_offset(tau: float, k: float, sigma_k: float, target: float = 0.5) -> float | None:
    """Largest |b| / sigma_b at the contrast e^k by the published bound, in closed form.

    Li et al., "TSS: Transformation-specific smoothing for robustness certification", CCS 2021. It
    grows with k below 0 and falls above.

    Returns:
        float | None: None if not even b = 0 is certified.
    """
    shift = abs(k) / sigma_k
    reach = float(_after_rescaling(np.array([tau]), k)[0] - ndtri(target))
    return min(math.exp(-k), 1.0) * math.sqrt(reach**2 - shift**2) if reach >= shift else None


@lru_cache(maxsize=4096)
def largest_offset(tau: float, k: float, sigma_k: float, target: float = 0.5) -> float | None:
    """Largest |b| / sigma_b at the contrast e^k: never above the exact one.

    It is within 0.03 % of it for sigma_k up to 1.

    Returns:
        float | None: None if not even b = 0 is certified.
    """
    published = published_offset(tau, k, sigma_k, target)
    reach, shift = float(ndtri(tau) - ndtri(target)), abs(k) / sigma_k
    # Half-planes in k alone and in b alone lose the target from here on.
    highest = float(ndtri(tau) - math.exp(-k) * ndtri(target))
    if k == 0 or shift >= reach or highest <= 0 or abs(k) > LARGEST_CONTRAST:
        return published
    level: Numbers | None = None

    def margin(n: float) -> float:
        nonlocal level
        kept, level = least_kept(tau, shift, n, k, level)
        return _quantile_margin(kept[0], target)

    found = largest_passing(margin, published or 0.0, highest, 1e-6)
    return published if found is None else found


@lru_cache(maxsize=4096)
def largest_offset_between(
    tau: float, low: float, high: float, sigma_k: float, target: float = 0.5
) -> float | None:
    """Largest |b| / sigma_b at every contrast e^k with low <= k <= high, low <= 0 <= high.

    It is that of the worse end, up to 1e-3 of it, as far as this can be proven for all contrasts
    between; at least the published one.

    Returns:
        float | None: None if not even b = 0 is certified at all of them.
    """
    ends = [largest_offset(tau, k, sigma_k, target) for k in (low, high)]
    known = [published_offset(tau, k, sigma_k, target) for k in (low, high)]
    if None in ends:
        return None
    # And at k = 0, that of Gaussian noise.
    least = min([end for end in ends if end is not None] + [float(ndtri(tau) - ndtri(target))])
    published = 0.0 if None in known else min(end for end in known if end is not None)
    if low == high == 0:
        return least
    if max(-low, high) > LARGEST_CONTRAST:
        return published
    for share in (1e-3, 1e-2, 0.1):
        offset = (1 - share) * least
        if offset <= published:
            break
        if all(_holds_up_to(tau, k, offset, sigma_k, target) for k in (low, high) if k != 0):
            return offset
    return published


def least_kept(
    tau: float,
    m: Numbers | float,
    n: Numbers | float,
    k: Numbers | float,
    level: Numbers | None = None,
) -> tuple[Numbers, Numbers]:
    """Lower bounds of what a probability above ``tau`` becomes after attacks (m, n, k).

    Args:
        tau (float): Probability before the attack.
        m (Numbers | float): |k| / sigma_k, positive.
        n (Numbers | float): |b| / sigma_b, at least 0.
        k (Numbers | float): Logarithms of the contrast.
        level (Numbers | None): Where to start the search for the best factors c.

    Returns:
        tuple[Numbers, Numbers]: The bounds, shape (attacks,), and the levels found.
    """
    m, n, k = np.broadcast_arrays(*(np.atleast_1d(np.float64(v)) for v in (m, n, k)))
    s, bend = np.exp(-k), -np.expm1(-2 * k)
    slope = n * s
    m = np.maximum(m, np.maximum(slope / STEEPEST, np.abs(bend) / MOST_CURVED))
    nodes, weights = _nodes(m, slope, bend)
    heights = n[:, None] ** 2 / 2 + slope[:, None] * nodes - bend[:, None] * nodes**2 / 2
    if level is None:  # Of the half-plane: exact for k = 0.
        level = ndtri(tau) * np.hypot(m, n) - n**2 / 2
    for _ in range(30):
        # Above 37, Phi(-t) rounds to 0; a smaller t makes the bound smaller.
        t = np.minimum((level[:, None] - heights) / m[:, None], 37.0)
        beyond = np.exp(m[:, None] * t - m[:, None] ** 2 / 2) * ndtr(-t)
        outside, allowed = beyond @ weights, np.exp(level - m**2 / 2) / s * (1 - tau)
        kept = (ndtr(t - m[:, None]) + beyond) @ weights - allowed - MARGIN
        # Newton: at the best level the set has the probability tau. It need not be met exactly.
        gap = np.log(outside / allowed)
        if (np.abs(gap) < 1e-4).all():
            break
        fall = np.exp(-((t - m[:, None]) ** 2) / 2) @ weights / math.sqrt(2 * math.pi) / m / outside
        limit = 1 + 2 * m + n
        step = np.divide(gap, fall, out=np.sign(gap) * limit, where=fall > 1e-12)
        level = level + np.clip(step, -limit, limit)
    return kept, level


def _nodes(m: Numbers, slope: Numbers, bend: Numbers) -> tuple[Numbers, Numbers]:
    """Nodes and weights of a trapezoidal rule for E f(W) with an error below QUADRATURE_ERROR."""
    strip = m / np.maximum(np.maximum(slope / 3, 2 * np.abs(bend)), m / 2)
    mean, variance = strip * slope / m, (strip * bend / m) ** 2
    rest = 1 - 2 * variance
    largest = 2 * np.exp(strip**2 / 2) * (1 + 0.25 * np.exp(mean**2 / rest) / np.sqrt(rest))
    step = 2 * math.pi * strip / np.log1p(2 * largest / QUADRATURE_ERROR)
    nodes = np.linspace(-REACH, REACH, 1 + math.ceil(2 * REACH / step.min()))
    return nodes, np.exp(-(nodes**2) / 2) * (nodes[1] - nodes[0]) / math.sqrt(2 * math.pi)


def _holds_up_to(tau: float, end: float, n: float, sigma_k: float, target: float) -> bool:
    """Whether the target is kept with the offset n at all contrasts from e^0 to e^end.

    The caller knows that it is kept at both ends.
    """
    side = math.copysign(1.0, end)
    steps = np.linspace(0, abs(end), 1001)
    # From the first of these steps on, what is kept falls with |k|: the end is the worst.
    falls = 4 * steps * np.abs(np.expm1(2 * side * steps)) >= (n * sigma_k) ** 2
    outer = steps[falls.argmax()] if falls.any() else abs(end)
    edges = np.linspace(0, outer, FIRST_CELLS + 1)
    low, high, looked_at = edges[:-1], edges[1:], 0
    while len(low):
        looked_at += len(low)
        if looked_at > MOST_CELLS:
            return False
        middle, half = (low + high) / 2, (high - low) / 2
        kept, _ = least_kept(tau, middle / sigma_k, n, side * middle)
        if (kept < target).any():
            return False
        # From the middle on, further contrast alone, up or down, leads to the rest of the cell.
        left = np.minimum(_after_rescaling(kept, half), _after_rescaling(kept, -half))
        split = left - half / sigma_k < ndtri(target) + MARGIN
        low, middle, high = low[split], middle[split], high[split]
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
    return True


def _after_rescaling(p: Numbers, k: Numbers | float) -> Numbers:
    """Normal quantiles of what probabilities p become where the scale of b changes by e^-k.

    The likelihood ratio depends on |b| alone: the worst set is {|b| >= c} for k > 0, and {|b| <= c}
    for k < 0.
    """
    # Probabilities of the complements, which are precise near 0.
    center = erf(np.exp(k) * erfinv(1 - p))
    tails = 2 * ndtr(np.exp(k) * ndtri((1 - p) / 2))
    return -ndtri(np.where(np.equal(k, 0), 1 - p, np.where(np.greater(k, 0), center, tails)))


def largest_passing(
    margin: Callable[[float], float], low: float, high: float, precision: float
) -> float | None:
    """Largest number found in [low, high] whose margin is at least 0, where margins fall.

    Args:
        margin (Callable): Called with one number.
        low (float): Lower end.
        high (float): Higher end.
        precision (float): The result is below the largest by at most this share of it.

    Returns:
        float | None: None if not even ``low`` passes.
    """
    at_low, at_high = margin(low), margin(high)
    if not at_low >= 0:
        return None
    if at_high >= 0:
        return high
    last = 0
    for _ in range(100):
        if high - low <= precision * high:
            break
        # Regula falsi, a little to the side that has not moved last, which moves it soon.
        guess = low + (high - low) * at_low / (at_low - at_high) + last * precision * high / 3
        edge = 0.01 * (high - low)
        guess = min(max(guess, low + edge), high - edge)
        found = margin(guess)
        if found >= 0:
            low, at_low, at_high = guess, found, at_high / (2 if last > 0 else 1)
            last = 1
        else:
            high, at_high, at_low = guess, found, at_low / (2 if last < 0 else 1)
            last = -1
    return low


def _quantile_margin(kept: float, target: float) -> float:
    """How far a probability is above the target, in quantiles; they are finite in [0, 1)."""
    return float(ndtri(max(kept, 1e-300)) - ndtri(target)) if kept < 1 else math.inf
