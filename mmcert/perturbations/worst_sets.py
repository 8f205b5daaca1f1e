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
from scipy.special import chdtr, erf, erfinv, ndtr, ndtri

from mmcert.perturbations.base import LARGEST_TAU

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
        if not (kept >= target).all():
            return False
        # From the middle on, further contrast alone, up or down, leads to the rest of the cell.
        left = np.minimum(_after_rescaling(kept, half), _after_rescaling(kept, -half))
        split = ~(left - half / sigma_k >= ndtri(target) + MARGIN)
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


# Rotation about any axis. The density relative to the Haar measure is exp(-depth(angle)) / Z, with
# a depth that grows with the angle. Rotations are pairs of opposite unit quaternions.

LEVEL_STEP = 1 / 2000
"""Logarithms of neighbouring levels of the density differ by about so much."""

DEEPEST, SMALLEST_LEVEL = 60.0, 1e-5
"""How far below the largest density the table reaches, and from which density on it is summed."""

SMALLEST_SIGMA = 0.05
"""Below, rotations are as good as flat: the closed form is within 0.05 % of the exact angle."""


@lru_cache(maxsize=1024)
def largest_rotation(tau: float, sigma: float, target: float = 0.5) -> float:
    """Largest angle of an attacking rotation that keeps a probability above ``target``.

    Args:
        tau (float): Probability before the attack, above the target.
        sigma (float): Standard deviation of the axis-angle vector, at most 1.
        target (float): Target probability.

    Returns:
        float: A lower bound of the exact angle, in radians, that is never below
        sigma * (Phi^{-1}(tau) - Phi^{-1}(target)). At pi or above, all rotations are covered.
    """
    flat = float(sigma * (ndtri(tau) - ndtri(target)))
    if sigma < SMALLEST_SIGMA or flat >= math.pi:
        return flat
    # The best factor c of additive noise, at first; it is nearly that of rotations.
    factor = float(ndtri(tau) ** 2 - ndtri(target) ** 2) / 2

    def margin(angle: float, every: int = 1) -> float:
        return _quantile_margin(kept_by_rotation(tau, angle, sigma, factor, every), target)

    rough = largest_passing(lambda angle: margin(angle, 40), flat / 2, math.pi, 1e-3) or flat
    # It is the steeper in the factor the smaller the angle is.
    step = 0.1 * min(rough / sigma, 2.0)
    for _ in range(5):
        near = (factor, factor - step, factor + step)
        best = max(near, key=lambda choice: kept_by_rotation(tau, rough, sigma, choice, 4))
        step, factor = (step / 3 if best == factor else step), best
    low = max(rough, flat)
    return largest_passing(margin, low, min(2 * low, math.pi), 3e-5) or flat


def kept_by_rotation(
    tau: float, angle: float, sigma: float, factor: float, every: int = 1
) -> float:
    """Lower bound of what a probability above ``tau`` becomes after a rotation by an angle.

    Args:
        tau (float): Probability before the attack.
        angle (float): Angle of the attacking rotation, in (0, pi].
        sigma (float): Standard deviation of the axis-angle vector, at most 1.
        factor (float): Logarithm of the factor c, rounded to the table's step, at least 0.
        every (int): Levels are left out but for each of so many; the bound becomes smaller.
    """
    balls, levels, step = _balls(sigma)
    shift = min(max(round(factor / step / every), 0) * every, balls.shape[1] - levels.size)
    own, other = (balls[:, start : start + levels.size : every] for start in (0, shift))
    heights = levels[::every]
    # Between two levels, and below the last, as much is shared as at the upper one.
    total = shared_by_balls(other, own, angle / 2) @ (heights - np.append(heights[1:], 0.0))
    return float(total - math.exp(shift * step) * (1 - tau) - MARGIN)


def shared_by_balls(first: Numbers, second: Numbers, distance: float) -> Numbers:
    """Haar measure of what two balls of rotations share, shape (N,).

    Args:
        first (Numbers): Balls about the identity, shape (3, N): half the largest angle a of their
            rotations, in [0, pi / 2], cos a and sin a.
        second (Numbers): Balls about another rotation, shape (3, N).
        distance (float): Half the angle of that rotation, in (0, pi / 2].
    """
    # Two coordinates of a uniform unit quaternion are uniform on the unit disc. There the balls are
    # {|X| >= cos a} and {|Y| >= cos b}, with axes at this distance: two pairs of segments.
    (a, cos_a, sin_a), (b, cos_b, sin_b) = first, second
    sum_cos, sum_sin = cos_a * cos_b - sin_a * sin_b, sin_a * cos_b + cos_a * sin_b
    smaller, both = np.where(a < b, a - sin_a * cos_a, b - sin_b * cos_b), np.zeros_like(a)
    for between in (distance, math.pi - distance):
        cos, sin = math.cos(between), math.sin(between)
        # Where the chords cross: the segment over the arc that they share, and the triangle
        # between the ends of this arc and the crossing.
        arc = a + b - between
        base = np.abs(cos * cos_b + sin * sin_b - cos_a)
        triangle = base * np.abs(sin_a - (cos_b - cos_a * cos) / sin)
        crossing = (arc - (sum_sin * cos - sum_cos * sin) + triangle) / 2
        nested = between <= np.abs(a - b)
        both += np.where(arc <= 0, 0.0, np.where(nested, smaller, crossing))
    return 2 / math.pi * both


@lru_cache(maxsize=4)
def _balls(sigma: float) -> tuple[Numbers, Numbers, float]:
    """Balls in which the density is at least exp(-i step) / Z, and these levels.

    Returns:
        tuple[Numbers, Numbers, float]: The balls as for ``shared_by_balls``, with angles rounded
        down; the levels, of which there may be fewer; and the step.
    """

    def depth(angle: Numbers) -> Numbers:
        return angle**2 / (2 * sigma**2) + 2 * np.log(np.sinc(angle / (2 * math.pi)))

    last = float(depth(np.array([math.pi]))[0])
    count = math.ceil(min(last, DEEPEST) / LEVEL_STEP)
    step = min(last, DEEPEST) / count
    depths = step * np.arange(count + 1)
    fine = np.linspace(0, math.pi, 20001)
    angles = np.interp(np.sqrt(depths), np.sqrt(depth(fine)), fine) * (1 - 1e-7)
    angles[depth(angles) > depths] = 0.0
    if last <= DEEPEST:  # From here on, a ball holds all rotations.
        angles = np.append(angles[:-1], np.full(math.ceil(DEEPEST / step) - count, math.pi))
    total = sigma**3 * math.sqrt(math.pi / 2) * chdtr(3, (math.pi / sigma) ** 2) / (2 * math.pi)
    levels = np.exp(-depths) / total
    balls = np.stack([angles / 2, np.cos(angles / 2), np.sin(angles / 2)])
    return balls, levels[levels >= SMALLEST_LEVEL], step


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
    """How far a probability, at most 1, is above the target, in quantiles that are finite."""
    return float(ndtri(np.clip(kept, 1e-300, LARGEST_TAU)) - ndtri(target))
