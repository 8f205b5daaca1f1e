"""The methods that SegCertify is compared with: Cohen's classifier, JointClass and IndivClass.

They are here for comparison. All three give certificates; they differ in what a single unstable
component costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mmcert.certify.binomial import clopper_pearson_lower
from mmcert.certify.checks import check_alpha, check_draws, check_tau


def cohen_predict(counts: ArrayLike, alpha: float) -> int | None:
    """Predicts the class of the smoothed classifier, or abstains.

    The two most frequent classes are compared by a two-sided binomial test (Cohen, Rosenfeld,
    Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, algorithm
    PREDICT). With probability at least 1 - alpha the result is the smoothed classifier's class or
    None.

    Args:
        counts (np.ndarray): Votes of each class, integers >= 0, shape (C,), C >= 1.
        alpha (float): Significance level, in (0, 1).

    Returns:
        int | None: The class; None to abstain.

    Raises:
        ValueError: If the counts are not of this kind or alpha is out of range.
    """
    # A class without votes stands in for the second where there is only one.
    votes, alpha = np.append(_check_counts(counts), 0), check_alpha(alpha)
    top, second = np.argsort(-votes, kind='stable')[:2]
    total = int(votes[top]) + int(votes[second])
    if total == 0:
        return None
    p = stats.binomtest(int(votes[top]), total, 0.5).pvalue
    return int(top) if p <= alpha else None


def _check_counts(counts: ArrayLike) -> NDArray[np.int64]:
    """Counts of votes as int64: negated, an unsigned one would wrap."""
    votes = np.asarray(counts)
    if votes.ndim != 1 or votes.size == 0 or votes.dtype.kind not in 'iu':
        raise ValueError(
            'counts must be a list of integers, one for each class, got an array of '
            f'{votes.dtype} with shape {votes.shape}'
        )
    if votes.min() < 0 or int(votes.max()) > np.iinfo(np.int64).max:
        raise ValueError(f'counts must be numbers of votes, got {counts!r}')
    return votes.astype(np.int64)


def cohen_certify(guess_hits: int, n: int, alpha: float) -> float | None:
    """Lower bound of the guess class's probability where it exceeds 1/2 (algorithm CERTIFY).

    The radius is sigma * Phi^{-1}(bound).

    Args:
        guess_hits (int): Estimation draws that agree with the guess.
        n (int): Number of estimation draws.
        alpha (float): Significance level, in (0, 1).

    Returns:
        float | None: The bound; None to abstain.
    """
    bound = float(clopper_pearson_lower(np.array([guess_hits]), n, alpha)[0])
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
    bounds = clopper_pearson_lower(counts, check_draws(n), level)
    if tau is not None:
        certified = bounds >= check_tau(tau)
        return Comparison(certified, tau if certified.any() else None)
    least = float(bounds.min(initial=1.0))
    return Comparison(np.full(counts.shape, least > 0.5), least if least > 0.5 else None)
