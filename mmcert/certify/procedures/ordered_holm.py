"""Ordered Holm: spends what Holm's procedure leaves of alpha."""

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.procedures.base import Family, Procedure, Rejections, register
from mmcert.certify.procedures.holm import Holm


@register
class OrderedHolm(Procedure):
    """An alpha-exhausting refinement of Holm's procedure, for p-values of counts.

    Let t_k be the p-value of k hits, I the pending components and m = |I|. Holm's cut-off is k*,
    the smallest k with m * t_k <= alpha (n + 1 if there is none, with t = 0). What that leaves of
    alpha pays for testing the first m1 = floor((alpha - m * t_k*) / (t_{k*-1} - t_k*)) components
    of I, in an order fixed in advance, at k* - 1 hits. The rejected ones leave I, and so on until
    nothing changes. It rejects all that Holm's procedure rejects. This procedure is
    mmcert's own; docs/theory/ordered-holm.md has the proof, and what it is closest to.
    """

    name = 'ordered_holm'
    promise = 'no certificate is wrong; never fewer certificates than `holm`'
    source = "mmcert's own: docs/theory/ordered-holm.md"
    takes_order = True
    planning_note = (
        'All figures of ordered_holm are for the component that it tests first; the others need at '
        'most one hit more, and where holm cannot begin, they wait for those before them.'
    )

    @property
    def without_order(self) -> Procedure:
        """Holm's procedure."""
        return Holm()

    def critical_value(self, alpha: float, num_components: int, k: int = 1) -> float:
        """Alpha: all of it may go to the component that the order puts first."""
        return alpha

    def first_hits(
        self, table: NDArray[np.float64], alpha: float, num_components: int, k: int = 1
    ) -> int | None:
        """Holm's first hits, or one less where Holm leaves enough of alpha for that."""
        cutoff = int(np.count_nonzero(table > alpha / max(num_components, 1)))
        if cutoff > 0:
            at_cutoff = table[cutoff] if cutoff < len(table) else 0.0
            if num_components * at_cutoff + (table[cutoff - 1] - at_cutoff) <= alpha:
                cutoff -= 1
        return cutoff if cutoff < len(table) else None

    def run(self, family: Family) -> Rejections:
        """See ``Procedure.run``."""
        cutoff, extra = self._cutoff_and_extra(family)
        mask = family.reject_from(cutoff).mask
        mask[extra] = True
        # The order pays for the components that it was applied to, and for no others.
        left = int(family.counts.sum()) - int(np.count_nonzero(mask))
        return Rejections(mask, family.attains(family.alpha / max(left, 1)))

    def _cutoff_and_extra(self, family: Family) -> tuple[int, NDArray[np.integer]]:
        """Holm's last cut-off k*, and the indices of rejected components with k* - 1 hits.

        Once c components with k* - 1 hits have been rejected, the next one, at place q among the
        components with fewer than k* hits, has rank q - c within I: it is rejected if (m - c) *
        t_k* + (q - c) * (t_{k*-1} - t_k*) <= alpha. So no component is visited twice.
        """
        table, alpha, counts = family.table, family.alpha, family.counts
        cutoff, remaining = len(table), int(counts.sum())
        ordered: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None
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
            ordered = ordered or _in_order(family)
            order, hits = ordered
            place = np.cumsum(hits < cutoff, dtype=np.int32)
            where = np.flatnonzero(hits == cutoff - 1)
            ahead = np.arange(marginal)
            spent = (remaining - ahead) * at_cutoff + (place[where] - ahead) * step
            failed = spent > alpha
            if failed.any():
                return cutoff, order[where[: int(np.argmax(failed))]]
            cutoff -= 1
            remaining -= marginal


def _in_order(family: Family) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The pending components in their order, and the hits of each."""
    order = np.arange(family.hits.size) if family.order is None else family.order
    if family.pending is not None:
        order = order[family.pending[order]]
    return order, family.hits[order]
