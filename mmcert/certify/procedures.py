"""The multiple testing procedures by name, on votes.

Votes of n draws have n + 1 attainable p-values, which a table lists by the number of hits, not
increasing. A procedure is then a cut-off of the hits, found from their histogram without a sort and
without an array of K floats; ``ordered_holm`` adds some of the components just below it.

All of them reject step by step: what is rejected leaves the family, and the others are tested
anew. They may therefore be continued on further draws at a level of their own (see ``sequential``).
The proofs are in docs/proofs.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.binomial import histogram
from mmcert.certify.multiple_testing import step_down


@dataclass(frozen=True, eq=False)
class Rejections:
    """What one run of a procedure rejects.

    Attributes:
        mask (np.ndarray): True where a null hypothesis was rejected that was pending before.
        cutoff (int): Smallest number of hits at which every component may be tested that is still
            pending after this run; n + 1 if there is none. Coarser counts are held against it.
    """

    mask: NDArray[np.bool_]
    cutoff: int


def reject(
    procedure: str,
    hits: NDArray[np.integer],
    table: NDArray[np.float64],
    alpha: float,
    *,
    k: int = 1,
    order: NDArray[np.integer] | None = None,
    pending: NDArray[np.bool_] | None = None,
) -> Rejections:
    """Runs a procedure on one family.

    Args:
        procedure (str): One of ``PROCEDURES``.
        hits (np.ndarray): Hits of each component, shape (K,), integers in [0, n].
        table (np.ndarray): p-value of 0, ..., n hits, not increasing, shape (n + 1,).
        alpha (float): Bound of the error probability of this run, in (0, 1).
        k (int): Of the k-FWER.
        order (np.ndarray | None): For 'ordered_holm': a permutation of the components, most
            promising first, which no counted draw had a part in; by default 0, 1, ....
        pending (np.ndarray | None): True where the component was not rejected by an earlier run on
            the same family; by default everywhere. Those rejected earlier count as rejected.

    Returns:
        Rejections: The newly rejected components and the cut-off.

    Raises:
        ValueError: If the procedure is not known.
    """
    check_procedure(procedure)
    family = _Family(hits, table, alpha, k, order, pending)
    return _RULES[procedure].run(family)


@dataclass(frozen=True, eq=False)
class _Family:
    """The arguments of ``reject``, and what is counted from them."""

    hits: NDArray[np.integer]
    table: NDArray[np.float64]
    alpha: float
    k: int
    order: NDArray[np.integer] | None
    pending: NDArray[np.bool_] | None

    @functools.cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many pending components have 0, ..., n hits, shape (n + 1,)."""
        hits = self.hits if self.pending is None else self.hits[self.pending]
        return histogram(hits, len(self.table) - 1)

    @property
    def rejected(self) -> int:
        """How many components an earlier run rejected."""
        return self.hits.size - int(self.counts.sum())

    def attains(self, level: float) -> int:
        """Smallest number of hits whose p-value is at most a level; n + 1 if there is none."""
        return int(np.count_nonzero(self.table > level))

    def above(self, cutoff: int) -> Rejections:
        """Rejects at a cut-off."""
        mask = self.hits >= cutoff
        return Rejections(mask if self.pending is None else mask & self.pending, cutoff)

    def step_down(self, k: int) -> Rejections:
        """Rejects by Holm's procedure, or Lehmann and Romano's."""
        steps = step_down(
            self.table[::-1],
            self.counts[::-1],
            self.alpha,
            total=self.hits.size,
            k=k,
            rejected=self.rejected,
        )
        return self.above(len(self.table) - steps)


def _bonferroni(family: _Family) -> Rejections:
    return family.above(family.attains(family.alpha / max(family.hits.size, 1)))


def _holm(family: _Family) -> Rejections:
    return family.step_down(1)


def _kfwer(family: _Family) -> Rejections:
    return family.step_down(family.k)


def _ordered(family: _Family) -> Rejections:
    cutoff, extra = _ordered_holm(
        family.hits, family.counts, family.table, family.alpha, family.order, family.pending
    )
    mask = family.above(cutoff).mask
    mask[extra] = True
    # The order pays for the components that it was applied to, and for no others.
    left = int(family.counts.sum()) - int(np.count_nonzero(mask))
    return Rejections(mask, family.attains(family.alpha / max(left, 1)))


def _ordered_holm(
    hits: NDArray[np.integer],
    counts: NDArray[np.int64],
    table: NDArray[np.float64],
    alpha: float,
    order: NDArray[np.integer] | None,
    pending: NDArray[np.bool_] | None,
) -> tuple[int, NDArray[np.integer]]:
    """An alpha-exhausting refinement of Holm's procedure for p-values of counts.

    With t_k the p-value of k hits, I the pending components and m = |I|, Holm's cut-off is k*, the
    smallest k with m * t_k <= alpha (n + 1 if there is none, with t = 0). What that leaves of alpha
    pays for testing the first m1 = floor((alpha - m * t_k*) / (t_{k*-1} - t_k*)) components of I,
    in an order fixed in advance, at k* - 1 hits. The rejected ones leave I, and so on until
    nothing changes. The proof is in docs/proofs.md, "Ordered Holm".

    Once c components with k* - 1 hits have been rejected, the next one, at place q among the
    components with fewer than k* hits, has rank q - c within I: it is rejected if (m - c) * t_k* +
    (q - c) * (t_{k*-1} - t_k*) <= alpha. So no component is visited twice.

    Returns:
        tuple: The cut-off k*, and the indices of further rejected components, with k* - 1 hits.
    """
    cutoff, remaining = len(table), int(counts.sum())
    sorted_hits: NDArray[np.integer] | None = None
    none = np.empty(0, dtype=np.intp)
    while True:
        while cutoff > 0 and remaining > 0 and table[cutoff - 1] <= alpha / remaining:
            cutoff -= 1
            remaining -= int(counts[cutoff])
        if cutoff == 0 or counts[cutoff - 1] == 0:
            return cutoff, none
        at_cutoff = table[cutoff] if cutoff < len(table) else 0.0
        step = table[cutoff - 1] - at_cutoff
        marginal = int(counts[cutoff - 1])
        if (remaining - marginal + 1) * at_cutoff + step > alpha:
            return cutoff, none
        if sorted_hits is None:
            if order is None:
                order = np.arange(hits.size)
            if pending is not None:
                order = order[pending[order]]
            sorted_hits = hits[order]
        assert order is not None
        place = np.cumsum(sorted_hits < cutoff, dtype=np.int32)
        where = np.flatnonzero(sorted_hits == cutoff - 1)
        ahead = np.arange(marginal)
        spent = (remaining - ahead) * at_cutoff + (place[where] - ahead) * step
        failed = spent > alpha
        if failed.any():
            return cutoff, order[where[: int(np.argmax(failed))]]
        cutoff -= 1
        remaining -= marginal


def _first_of_ordered(table: NDArray[np.float64], alpha: float, num_components: int, k: int) -> int:
    """Hits that the component put first needs, while all others have fewer than the cut-off."""
    cutoff = int(np.count_nonzero(table > alpha / max(num_components, 1)))
    if cutoff == 0:
        return 0
    at_cutoff = table[cutoff] if cutoff < len(table) else 0.0
    step = table[cutoff - 1] - at_cutoff
    return cutoff - 1 if num_components * at_cutoff + step <= alpha else cutoff


def _first_of_level(table: NDArray[np.float64], alpha: float, num_components: int, k: int) -> int:
    """Hits with a p-value of at most k * alpha / K."""
    return int(np.count_nonzero(table > k * alpha / max(num_components, 1)))


@dataclass(frozen=True)
class _Rule:
    """What has to be known of a procedure.

    Attributes:
        run (Callable): Its run on one family.
        first_hits (Callable): See ``first_hits``; with n + 1 where no number of hits is enough.
        steps (bool): Whether it tests at larger levels once something was rejected.
        alpha_for_first (bool): Whether all of alpha may go to the component that is put first.
    """

    run: Callable[[_Family], Rejections]
    first_hits: Callable[[NDArray[np.float64], float, int, int], int] = _first_of_level
    steps: bool = True
    alpha_for_first: bool = False


_RULES = {
    'bonferroni': _Rule(_bonferroni, steps=False),
    'holm': _Rule(_holm),
    'kfwer': _Rule(_kfwer),
    'ordered_holm': _Rule(_ordered, _first_of_ordered, alpha_for_first=True),
}

PROCEDURES = tuple(_RULES)
"""Legal names of procedures: those that have a rule, and no others."""


def check_procedure(procedure: str) -> None:
    """Checks the name of a procedure.

    Raises:
        ValueError: If it is not known; the message lists the legal ones.
    """
    if procedure not in PROCEDURES or procedure not in _RULES:
        raise ValueError(f'unknown procedure {procedure!r}; legal: {", ".join(_RULES)}')


def first_hits(
    procedure: str, table: NDArray[np.float64], alpha: float, num_components: int, k: int = 1
) -> int | None:
    """Hits that a component needs while nothing is rejected and all others have none.

    For 'ordered_holm' it is the component that the order puts first.

    Args:
        procedure (str): One of ``PROCEDURES``.
        table (np.ndarray): p-value of 0, ..., n hits, not increasing, shape (n + 1,).
        alpha (float): Bound of the error probability, in (0, 1).
        num_components (int): Size of the family, K.
        k (int): Of the k-FWER.

    Returns:
        int | None: The hits; None if n are not enough.
    """
    check_procedure(procedure)
    hits = _RULES[procedure].first_hits(table, alpha, num_components, k)
    return hits if hits < len(table) else None


def log_first_level(procedure: str, alpha: float, num_components: int, k: int = 1) -> float:
    """Logarithm of the largest p-value that the first rejection of a procedure may have.

    Args:
        procedure (str): One of ``PROCEDURES``.
        alpha (float): Bound of the error probability, in (0, 1).
        num_components (int): Size of the family, K.
        k (int): Of the k-FWER.

    Returns:
        float: Nothing can be rejected unless some attainable p-value is at most exp of this.
    """
    check_procedure(procedure)
    if _RULES[procedure].alpha_for_first:
        return math.log(alpha)
    return math.log(alpha) + math.log(k) - math.log(max(num_components, 1))


def goes_on(procedure: str) -> bool:
    """Whether a procedure tests at larger levels once something was rejected."""
    check_procedure(procedure)
    return _RULES[procedure].steps
