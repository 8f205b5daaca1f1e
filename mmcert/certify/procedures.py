"""The multiple testing procedures by name, on votes.

Votes of n draws have n + 1 attainable p-values, which a table lists by the number of hits, not
increasing. A procedure is then a cut-off of the hits, found from their histogram without a sort and
without an array of K floats; ``ordered_holm`` adds some of the components just below it.

All of them reject step by step: what is rejected leaves the family, and the others are tested
anew. They may therefore be continued on further draws at a level of their own (see ``sequential``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.binomial import histogram
from mmcert.certify.multiple_testing import step_down

PROCEDURES = ('bonferroni', 'holm', 'kfwer', 'ordered_holm')
"""Legal names of procedures."""


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


def check_procedure(procedure: str) -> None:
    """Checks the name of a procedure.

    Raises:
        ValueError: If it is not known; the message lists the legal ones.
    """
    if procedure not in PROCEDURES:
        raise ValueError(f'unknown procedure {procedure!r}; legal: {", ".join(PROCEDURES)}')


def first_level(procedure: str, alpha: float, num_components: int, k: int = 1) -> float:
    """The largest p-value that the first rejection of a procedure may have.

    Args:
        procedure (str): One of ``PROCEDURES``.
        alpha (float): Bound of the error probability, in (0, 1).
        num_components (int): Size of the family, K.
        k (int): Of the k-FWER.

    Returns:
        float: The level: nothing can be rejected unless some attainable p-value is at most this.
    """
    if procedure == 'ordered_holm':
        # The component that the order puts first may be given all of alpha.
        return alpha
    return k * alpha / max(num_components, 1)


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
            promising first, independent of the draws that are counted; by default 0, 1, ....
        pending (np.ndarray | None): True where the component was not rejected by an earlier run on
            the same family; by default everywhere. Those rejected earlier count as rejected.

    Returns:
        Rejections: The newly rejected components and the cut-off.
    """
    total = hits.size
    counts = histogram(hits if pending is None else hits[pending], len(table) - 1)
    rejected = total - int(counts.sum())
    if procedure == 'bonferroni':
        cutoff = int(np.count_nonzero(table > alpha / max(total, 1)))
    elif procedure == 'ordered_holm':
        cutoff, extra = _ordered_holm(hits, counts, table, alpha, order, pending)
        mask = hits >= cutoff
        mask[extra] = True
        mask = mask if pending is None else mask & pending
        # The order pays for the components that it was applied to, and for no others.
        left = total - rejected - int(np.count_nonzero(mask))
        return Rejections(mask, int(np.count_nonzero(table > alpha / max(left, 1))))
    else:
        steps = step_down(
            table[::-1],
            counts[::-1],
            alpha,
            total=total,
            k=k if procedure == 'kfwer' else 1,
            rejected=rejected,
        )
        cutoff = len(table) - steps
    mask = hits >= cutoff
    return Rejections(mask if pending is None else mask & pending, cutoff)


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
    nothing changes.

    Valid by the sequential rejection principle (Goeman and Solari, "The sequential rejection
    principle of familywise error control", Annals of Statistics 2010). For the set T of true nulls
    the levels add up to at most m * t_k* + m1 * (t_{k*-1} - t_k*) <= alpha. And whatever is
    rejected within a larger set I is rejected within T as well: k* is not larger there, and with
    equal k* neither m nor the rank is larger, so m1 is not smaller. Hence the first false rejection
    is one that T makes, with probability at most alpha.

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
