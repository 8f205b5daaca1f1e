"""What a number of draws can certify at all, known before the first one is made."""

from __future__ import annotations

import math

from mmcert.certify.binomial import upper_tail_table
from mmcert.certify.checks import check_alpha, check_draws, check_tau


class InfeasiblePlanError(ValueError):
    """The planned number of draws cannot certify a single component."""


def can_certify(n: int, tau: float, alpha: float, num_components: int) -> bool:
    """Whether any vote counts could certify a component.

    Bonferroni and Holm both need one p-value of at most alpha / K to begin, and the smallest one
    attainable is that of n hits, tau^n.

    Args:
        n (int): Number of estimation draws, at least 1.
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the FWER, in (0, 1).
        num_components (int): Size of the family, K.

    Returns:
        bool: True if n unanimous votes are enough.

    Raises:
        ValueError: If a value is out of range.
    """
    level = check_alpha(alpha) / max(num_components, 1)
    return bool(upper_tail_table(n, tau)[-1] <= level)


def min_draws(tau: float, alpha: float, num_components: int) -> int:
    """Smallest n that can certify anything; see ``can_certify``.

    Args:
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the FWER, in (0, 1).
        num_components (int): Size of the family, K.

    Returns:
        int: The number of estimation draws.

    Raises:
        ValueError: If a value is out of range.
    """
    tau, alpha = check_tau(tau), check_alpha(alpha)
    n = max(1, math.floor(math.log(alpha / max(num_components, 1)) / math.log(tau)))
    while not can_certify(n, tau, alpha, num_components):
        n += 1
    return n


def require_feasible(n: int, tau: float, alpha: float, num_components: int) -> None:
    """Refuses a plan that cannot certify anything, before its draws are paid for.

    Args:
        n (int): Number of estimation draws, at least 1.
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the FWER, in (0, 1).
        num_components (int): Size of the family, K.

    Raises:
        InfeasiblePlanError: If nothing can be certified; the message gives the smallest n.
        ValueError: If a value is out of range.
    """
    check_draws(n)
    if not can_certify(n, tau, alpha, num_components):
        raise InfeasiblePlanError(
            f'n={n} draws cannot certify anything at tau={tau}, alpha={alpha} with '
            f'{num_components} components: even {n} unanimous votes have p-value '
            f'tau^n = {tau**n:.3g} > alpha/K = {alpha / num_components:.3g}. '
            f'The smallest n that can is {min_draws(tau, alpha, num_components)}.'
        )
