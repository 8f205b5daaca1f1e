"""All thresholds at once: a certified radius for every component, jointly valid.

A certificate at one tau says nothing of another tau, and alpha does not cover choosing the
best-looking tau afterwards. Lower confidence bounds at alpha / K for each component do: with
probability at least 1 - alpha no bound exceeds its component's probability. So p_i > t holds for
all components i and all t below their bounds together, and a curve made of them is valid as a
whole. With 'holdout' the bound is Clopper and Pearson's. With 'same_draws', where the counted draws
choose the class, it is taken at alpha / (2 K) and used where it exceeds 1/2. The proof is in
docs/theory/further-claims.md.
"""

from collections.abc import Callable

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
    alpha = check_alpha(alpha)
    if votes.table is not None:
        raise ValueError('scores of a pooled test say nothing of other thresholds than 1/2')
    selection = settle_joint(votes, alpha, selection)
    shares = max(votes.num_components, 1) * (2 if selection == 'same_draws' else 1)
    found = np.zeros(votes.guess.shape, dtype=np.float32)
    for look, (hits, n) in enumerate(votes.stages(selection), start=1):
        share = (spend(alpha, look) if votes.looks else alpha) / shares
        if share < SMALLEST_ALPHA:
            continue  # nothing is certified: the share itself may have lost digits
        bounds = clopper_pearson_table(n, share)
        radii = np.array([radius(bound) if bound > 0.5 else 0.0 for bound in bounds])
        table = radii.astype(np.float32)
        table = np.where(table > radii, np.nextafter(table, np.float32(0)), table)
        np.maximum(found, table[hits], out=found)
    return found
