"""The methods that SegCertify is compared with: JointClass and IndivClass.

Both give certificates, and a single unstable component costs both of them the whole output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.binomial import clopper_pearson_table
from mmcert.certify.checks import check_alpha, check_hits, check_tau


def cohen_certify(guess_hits: int, n: int, alpha: float) -> float | None:
    """Lower bound of the guess class's probability where it exceeds 1/2.

    This is algorithm CERTIFY of Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via
    Randomized Smoothing", ICML 2019. The radius is sigma * Phi^{-1}(bound).

    Args:
        guess_hits (int): Estimation draws that agree with the guess.
        n (int): Number of estimation draws.
        alpha (float): Significance level, in (0, 1).

    Returns:
        float | None: The bound; None to abstain.
    """
    bound = float(clopper_pearson_table(n, alpha)[check_hits(guess_hits, n)])
    return bound if bound > 0.5 else None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison method certifies.

    Attributes:
        certified (np.ndarray): True where the component is certified, shape (K,).
        tau (float | None): Probability that the certified classes exceed, from which the radius
            follows; None if nothing is certified.
    """

    certified: NDArray[np.bool_]
    tau: float | None


def joint_class(selection: ArrayLike, estimation: ArrayLike, alpha: float) -> Comparison:
    """JointClass: the whole output is one class.

    The most frequent label map of the selection draws is the guess; a draw agrees if all its
    components do.

    Args:
        selection (np.ndarray): Label maps of the selection draws, shape (n0, K).
        estimation (np.ndarray): Label maps of the estimation draws, shape (n, K).
        alpha (float): Significance level, in (0, 1).

    Returns:
        Comparison: All components certified, or none.
    """
    chosen, votes = np.asarray(selection), np.asarray(estimation)
    maps, counts = np.unique(chosen, axis=0, return_counts=True)
    agree = (votes == maps[np.argmax(counts)]).all(axis=1)
    bound = cohen_certify(int(agree.sum()), len(votes), alpha)
    return Comparison(np.full(votes.shape[1], bound is not None), bound)


def indiv_class(hits: ArrayLike, n: int, alpha: float, tau: float | None = None) -> Comparison:
    """IndivClass: each component is a classifier of its own, at level alpha / K.

    Without tau one radius is to hold for the whole output, so a single component below 1/2 makes it
    abstain from everything. With tau the components whose bound reaches it are certified; that is
    SegCertify with Bonferroni's procedure.

    Args:
        hits (np.ndarray): Estimation draws that agree with the guess, shape (K,).
        n (int): Number of estimation draws.
        alpha (float): Bound of the FWER, in (0, 1).
        tau (float | None): Probability threshold in [0.5, 1).

    Returns:
        Comparison: The certified components and what their probabilities exceed.
    """
    counts = np.asarray(hits)
    level = check_alpha(alpha) / max(counts.size, 1)
    bounds = clopper_pearson_table(n, level)[check_hits(counts, n)]
    if tau is not None:
        certified = bounds >= check_tau(tau)
        return Comparison(certified, tau if certified.any() else None)
    least = float(bounds.min(initial=1.0))
    return Comparison(np.full(counts.shape, least > 0.5), least if least > 0.5 else None)
