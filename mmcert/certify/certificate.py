"""From votes to a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.binomial import upper_tail_table
from mmcert.certify.checks import check_alpha, check_tau
from mmcert.certify.multiple_testing import holm_cutoff
from mmcert.certify.votes import Votes

ABSTAIN_LABEL = 254
"""Value that stands for "abstain" where a label map must carry it; the mask comes first."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """Which components of one input are certified, and on what terms.

    The theorem. Let p_i be the probability, over the perturbation's law, that the base model gives
    component i its guess class. With probability at least 1 - alpha over the draws that made the
    votes, p_i > tau holds for *all* certified components together. Together with the perturbation
    that the votes were sampled under, p_i > tau keeps the smoothed model's class of component i
    unchanged for every attack up to ``perturbation.radius(tau)``.

    Assumptions: the draws are independent, each used once, those of the guess apart from those of
    the hits; tau, alpha and the procedure were not chosen by looking at the hits; the input was
    not chosen by looking at the seed; arithmetic is exact.

    Not promised: that the certified model does not abstain under attack (p_i is then only known
    to exceed 1/2), that the class is right, or anything for several inputs together.

    Attributes:
        certified (np.ndarray): True where the component is certified, bool, the shape of the votes.
        guess (np.ndarray): The class that is certified there, same shape.
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the FWER over this input's components.
        procedure (str): Name of the multiple testing procedure.
        n (int): Number of estimation draws.
        n0 (int): Number of selection draws.
    """

    certified: NDArray[np.bool_]
    guess: NDArray[np.integer]
    tau: float
    alpha: float
    procedure: str
    n: int
    n0: int

    @property
    def num_components(self) -> int:
        """Number of components K, the size of the family."""
        return int(self.guess.size)

    def label_map(self, abstain: int = ABSTAIN_LABEL) -> NDArray[np.integer]:
        """The certified classes, with one value for "abstain".

        Args:
            abstain (int): Value of the components that are not certified; must not be a class.

        Returns:
            np.ndarray: The shape of the votes, in the type of ``guess`` or a wider one.

        Raises:
            ValueError: If ``abstain`` is one of the guess classes.
        """
        if self.guess.size and abstain <= self.guess.max():
            raise ValueError(
                f'the abstain value {abstain} must lie above every class, but the largest guess '
                f'class is {self.guess.max()}: use the mask `certified` instead'
            )
        dtype = np.promote_types(self.guess.dtype, np.min_scalar_type(abstain))
        return np.where(self.certified, self.guess.astype(dtype), dtype.type(abstain))

    def statement(self) -> dict[str, Any]:
        """The statistical terms, as JSON values.

        Returns:
            dict: kind, tau, alpha, confidence, procedure, n0, n, components, certified.
        """
        return {
            'kind': 'certificate',
            'tau': self.tau,
            'alpha': self.alpha,
            'confidence': 1 - self.alpha,
            'family': 'all components of this input',
            'procedure': self.procedure,
            'n0': self.n0,
            'n': self.n,
            'components': self.num_components,
            'certified': int(np.count_nonzero(self.certified)),
        }


def certify(
    votes: Votes,
    *,
    tau: float,
    alpha: float,
    procedure: str = 'holm',
    order: ArrayLike | None = None,
) -> Certificate:
    """Certifies as many components as the votes allow.

    Tests H0_i: p_i <= tau for every component with exact binomial p-values, and rejects under the
    named procedure, which bounds the FWER by alpha (SegCertify: Fischer, Baader, Vechev, ICML
    2021).

    Args:
        votes (Votes): Votes of one input.
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the FWER, in (0, 1).
        procedure (str): 'holm' or 'bonferroni'.
        order (np.ndarray | None): A permutation of the K components, most promising first, fixed
            before the estimation draws were seen. The procedures above treat all components alike
            and leave it unused.

    Returns:
        Certificate: The mask of certified components and the terms; see there for the theorem.

    Raises:
        ValueError: If a value is out of range, the procedure is unknown, or ``order`` is not a
            permutation.
    """
    tau, alpha = check_tau(tau), check_alpha(alpha)
    check_procedure(procedure)
    if order is not None:
        _check_order(order, votes.num_components)
    table = upper_tail_table(votes.n, tau)
    certified = PROCEDURES[procedure](votes.hits, table, alpha)
    return Certificate(
        certified=certified,
        guess=votes.guess,
        tau=tau,
        alpha=alpha,
        procedure=procedure,
        n=votes.n,
        n0=votes.n0,
    )


def check_procedure(procedure: str) -> None:
    """Checks the name of a procedure.

    Raises:
        ValueError: If it is not known; the message lists the legal ones.
    """
    if procedure not in PROCEDURES:
        raise ValueError(f'unknown procedure {procedure!r}; legal: {", ".join(sorted(PROCEDURES))}')


# Each procedure takes the hits, the table of attainable p-values and alpha. A larger count has a
# smaller p-value, so a cut-off of the p-values is a cut-off of the hits: no array of K floats.


def _bonferroni(
    hits: NDArray[np.integer], table: NDArray[np.float64], alpha: float
) -> NDArray[np.bool_]:
    return hits >= _first_at_most(table, alpha / max(hits.size, 1))


def _holm(hits: NDArray[np.integer], table: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
    histogram = np.bincount(hits.ravel(), minlength=len(table))
    return hits >= _first_at_most(table, holm_cutoff(table[::-1], histogram[::-1], alpha))


def _first_at_most(table: NDArray[np.float64], cutoff: float) -> int:
    """Smallest number of hits with a p-value of at most ``cutoff``; n + 1 if there is none."""
    return int(np.count_nonzero(table > cutoff))


PROCEDURES: dict[
    str, Callable[[NDArray[np.integer], NDArray[np.float64], float], NDArray[np.bool_]]
] = {'bonferroni': _bonferroni, 'holm': _holm}
"""The multiple testing procedures by name."""


def _check_order(order: ArrayLike, num_components: int) -> None:
    array = np.asarray(order)
    if array.dtype.kind not in 'iu' or array.shape != (num_components,):
        raise ValueError(
            f'order must be a permutation of the {num_components} components, got an array of '
            f'{array.dtype} with shape {array.shape}'
        )
    if not np.array_equal(np.bincount(array, minlength=num_components), np.ones(num_components)):
        raise ValueError(f'order must hold each of 0, ..., {num_components - 1} once')
