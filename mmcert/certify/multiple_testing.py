"""Which null hypotheses of one family may be rejected together.

All rules here control the family-wise error rate (FWER), the probability of at least one false
rejection, under any dependence between the p-values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.checks import check_alpha


def bonferroni(p_values: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Rejects every hypothesis with ``p <= alpha / K``.

    Args:
        p_values (np.ndarray): p-values of the family, any shape, K in all.
        alpha (float): Bound of the FWER, in (0, 1).

    Returns:
        np.ndarray: True where the null hypothesis is rejected, the shape of ``p_values``.

    Raises:
        ValueError: If alpha or a p-value is out of range.
    """
    p, alpha = _check_p_values(p_values), check_alpha(alpha)
    return p <= alpha / max(p.size, 1)


def holm(p_values: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Holm's step-down procedure.

    With the p-values sorted, rejects ``p_(i)`` while ``p_(i) <= alpha / (K - i + 1)`` and stops at
    the first failure (Holm, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 1979). Rejects all that ``bonferroni`` rejects.

    Args:
        p_values (np.ndarray): p-values of the family, any shape, K in all.
        alpha (float): Bound of the FWER, in (0, 1).

    Returns:
        np.ndarray: True where the null hypothesis is rejected, the shape of ``p_values``.

    Raises:
        ValueError: If alpha or a p-value is out of range.
    """
    p, alpha = _check_p_values(p_values), check_alpha(alpha)
    values, counts = np.unique(p, return_counts=True)
    return p <= holm_cutoff(values, counts, alpha)


def holm_cutoff(values: NDArray[np.float64], counts: NDArray[np.integer], alpha: float) -> float:
    """Largest p-value that Holm's procedure rejects, from the distribution of the p-values.

    Equal p-values stand or fall together: the first of them meets the strictest level. So a walk
    over the distinct values suffices, and no sort of the K components is needed.

    Args:
        values (np.ndarray): Distinct p-values in increasing order, shape (V,).
        counts (np.ndarray): How many components have each, shape (V,); zeros are allowed.
        alpha (float): Bound of the FWER, in (0, 1).

    Returns:
        float: The cut-off: reject where ``p <= cutoff``; -1 if nothing is rejected.
    """
    # Components not yet rejected when the walk reaches each value.
    remaining = counts.sum() - np.cumsum(counts) + counts
    present = counts > 0
    values, remaining = values[present], remaining[present]
    rejected = values <= alpha / remaining
    steps = len(values) if rejected.all() else int(np.argmin(rejected))
    return float(values[steps - 1]) if steps else -1.0


def _check_p_values(p_values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    legal = (p >= 0) & (p <= 1)
    if not legal.all():
        raise ValueError(f'p-values must lie in [0, 1], got {p[~legal].flat[0]}')
    return p
