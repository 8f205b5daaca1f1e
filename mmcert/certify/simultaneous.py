"""All thresholds at once: a certified radius for every component, jointly valid.

A certificate at one tau says nothing of another tau, and alpha does not cover choosing the
best-looking tau afterwards. Lower confidence bounds at alpha / K for each component do: with
probability at least 1 - alpha no bound exceeds its component's probability. So p_i > t holds for
all components i and all t below their bounds together, and a curve made of them is valid as a
whole. With 'holdout' the bound is Clopper and Pearson's. With 'same_draws', where the counted draws
choose the class, it is taken at alpha / (2 K) and used where it exceeds 1/2. The proof is in
docs/theory/further-claims.md.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.binomial import SMALLEST_ALPHA, clopper_pearson_table
from mmcert.certify.checks import check_alpha
from mmcert.certify.selection import settle_joint
from mmcert.certify.sequential import spend
from mmcert.certify.settings import SELECTION
from mmcert.certify.votes import Votes


def joint_radii(
    votes: Votes, *, alpha: float, radius: Callable[[float], float], selection: str = SELECTION
) -> NDArray[np.float32]:
    """The certified radius of each component, all of them jointly valid.

    With probability at least 1 - alpha over the draws, the smoothed model keeps the guess class of
    every component under every attack *smaller* than that component's radius.

    Args:
        votes (Votes): Votes of one input.
        alpha (float): Bound of the probability that any radius is too large, in (0, 1).
        radius (Callable): From a threshold tau in (1/2, 1) to the perturbation's radius.
        selection (str): 'holdout', 'same_draws', or 'auto', see ``selection.settle_joint``.

    Returns:
        np.ndarray: Radii, the shape of the votes, float32, rounded down; 0 where nothing is
        certified.

    Raises:
        ValueError: If a value is out of range or the votes lack what the selection needs.

    Examples:
        >>> import numpy as np
        >>> from scipy.special import ndtri
        >>> from mmcert.certify import Votes, joint_radii
        >>> votes = Votes(guess=np.array([3, 7]), hits=np.array([100, 80]), n=100, n0=10)
        >>> joint_radii(votes, alpha=0.001, radius=lambda tau: 0.25 * ndtri(tau)).round(3)
        array([0.363, 0.092], dtype=float32)
    """
    found = np.zeros(votes.guess.shape, dtype=np.float32)
    for hits, bounds in _looks(votes, alpha, selection):
        radii = np.array([radius(bound) if bound > 0.5 else 0.0 for bound in bounds])
        np.maximum(found, _rounded_down(radii)[hits], out=found)
    return found


def joint_bounds(votes: Votes, *, alpha: float, selection: str = SELECTION) -> NDArray[np.float32]:
    """A lower confidence bound of the probability of each guess, all of them jointly valid.

    With probability at least 1 - alpha over the draws, no bound exceeds the probability that the
    base model gives the component its guess class under the perturbation. ``joint_radii`` are the
    radii of these very bounds, and hold together with them.

    Args:
        votes (Votes): Votes of one input.
        alpha (float): Bound of the probability that any bound is too large, in (0, 1).
        selection (str): 'holdout', 'same_draws', or 'auto', see ``selection.settle_joint``.

    Returns:
        np.ndarray: Bounds in [0, 1], the shape of the votes, float32, rounded down. With
        'same_draws' those of at most 1/2 are 0: they are not proven.

    Raises:
        ValueError: If a value is out of range or the votes lack what the selection needs.

    Examples:
        >>> import numpy as np
        >>> from mmcert.certify import Votes, joint_bounds
        >>> votes = Votes(guess=np.array([3, 7]), hits=np.array([100, 80]), n=100, n0=10)
        >>> joint_bounds(votes, alpha=0.001).round(3)
        array([0.927, 0.644], dtype=float32)
    """
    found = np.zeros(votes.guess.shape, dtype=np.float32)
    unproven = 0.5 if settle_joint(votes, alpha, selection) == 'same_draws' else 0.0
    for hits, bounds in _looks(votes, alpha, selection):
        proven = np.where(bounds > unproven, bounds, 0.0)
        np.maximum(found, _rounded_down(proven)[hits], out=found)
    return found


def _looks(
    votes: Votes, alpha: float, selection: str
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.float64]]]:
    """For each look, the counted hits of each component, and the bound of each number of hits."""
    alpha = check_alpha(alpha)
    if votes.table is not None:
        raise ValueError('scores of a pooled test say nothing of other thresholds than 1/2')
    selection = settle_joint(votes, alpha, selection)
    shares = max(votes.num_components, 1) * (2 if selection == 'same_draws' else 1)
    for look, (hits, n) in enumerate(votes.stages(selection), start=1):
        share = (spend(alpha, look) if votes.looks else alpha) / shares
        if share < SMALLEST_ALPHA:
            continue  # nothing is certified: the share itself may have lost digits
        yield hits, clopper_pearson_table(n, share)


def _rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Numbers >= 0 in single precision, none of them larger."""
    single = values.astype(np.float32)
    return np.where(single > values, np.nextafter(single, np.float32(0)), single)
