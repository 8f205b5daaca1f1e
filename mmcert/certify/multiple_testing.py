"""Which null hypotheses of one family may be rejected together.

``bonferroni`` and ``holm`` bound the family-wise error rate (FWER), the probability of at least one
false rejection; ``kfwer`` bounds the probability of k or more. All hold under any dependence
between the p-values. ``procedures`` applies them to votes, whose p-values take few values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.checks import check_alpha, check_draws


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
    return kfwer(p_values, alpha, 1)


def kfwer(p_values: ArrayLike, alpha: float, k: int) -> NDArray[np.bool_]:
    """The step-down procedure of Lehmann and Romano for k or more false rejections.

    Rejects ``p_(i)`` while it is at most ``k * alpha / K`` for i <= k, and ``k * alpha / (K + k -
    i)`` for i > k, and stops at the first failure (Lehmann and Romano, "Generalizations of the
    familywise error rate", Annals of Statistics 2005, theorem 2.2). With probability at least
    1 - alpha, fewer than k rejections are false; k = 1 is ``holm``.

    Args:
        p_values (np.ndarray): p-values of the family, any shape, K in all.
        alpha (float): Bound of the probability of k or more false rejections, in (0, 1).
        k (int): At least 1.

    Returns:
        np.ndarray: True where the null hypothesis is rejected, the shape of ``p_values``.

    Raises:
        ValueError: If alpha, k or a p-value is out of range.
    """
    p, alpha = _check_p_values(p_values), check_alpha(alpha)
    values, counts = np.unique(p, return_counts=True)
    steps = step_down(values, counts, alpha, total=p.size, k=check_draws(k, 'k'))
    return p <= (values[steps - 1] if steps else -1.0)


def step_down(
    values: NDArray[np.float64],
    counts: NDArray[np.integer],
    alpha: float,
    *,
    total: int,
    k: int = 1,
    rejected: int = 0,
) -> int:
    """How many of the distinct p-values Holm's or Lehmann and Romano's procedure rejects.

    Equal p-values stand or fall together: the first of them meets the strictest level. So a walk
    over the distinct values suffices, and no sort of the K components is needed.

    Args:
        values (np.ndarray): Distinct p-values in increasing order, shape (V,).
        counts (np.ndarray): How many components have each, shape (V,); zeros are allowed.
        alpha (float): Bound of the error probability, in (0, 1).
        total (int): Size of the family, K.
        k (int): Bounds the probability of k or more false rejections; 1 is Holm.
        rejected (int): Hypotheses of the family that an earlier stage rejected and that are not
            counted in ``counts``.

    Returns:
        int: v such that the first v values are rejected, those that nobody has included.
    """
    before = rejected + np.cumsum(counts) - counts
    levels = k * alpha / np.maximum(total + k - np.maximum(before + 1, k), 1)
    # A value that nobody has fails by the level of the next hypothesis: no cut-off may pass it.
    failed = values > levels
    return int(np.argmax(failed)) if failed.any() else len(values)


def check_order(order: ArrayLike, num_components: int) -> NDArray[np.integer]:
    """Checks a permutation of the components.

    Args:
        order (np.ndarray): Indices, most promising first, shape (K,).
        num_components (int): Size of the family, K.

    Returns:
        np.ndarray: The same as an array.

    Raises:
        ValueError: If it is not a permutation of 0, ..., K - 1.
    """
    array = np.asarray(order)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in 'iu' or array.shape != (num_components,):
        raise ValueError(
            f'order must be a permutation of the {num_components} components, got an array of '
            f'{array.dtype} with shape {array.shape}'
        )
    seen = np.zeros(num_components, dtype=bool)
    if array.size and array.min() >= 0 and array.max() < num_components:
        seen[array] = True
    if not seen.all():
        raise ValueError(f'order must hold each of 0, ..., {num_components - 1} once')
    return array


def _check_p_values(p_values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    legal = (p >= 0) & (p <= 1)
    if not legal.all():
        raise ValueError(f'p-values must lie in [0, 1], got {p[~legal].flat[0]}')
    return p
