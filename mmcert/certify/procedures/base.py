"""What every multiple testing procedure has, and the registry of all of them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.binomial import histogram


@dataclass(frozen=True, eq=False)
class Rejections:
    """What one run of a procedure rejects.

    Attributes:
        mask (np.ndarray): True where this run rejected a null hypothesis that was pending, (K,).
        cutoff (int): Smallest number of hits at which *every* component that is still pending may
            be rejected; n + 1 if there is none. The groups of a hierarchy are tested at it.
    """

    mask: NDArray[np.bool_]
    cutoff: int


@dataclass(frozen=True, eq=False)
class Family:
    """The null hypotheses of one input, with the evidence against them.

    Attributes:
        hits (np.ndarray): Hits of each component, shape (K,), integers in [0, n].
        table (np.ndarray): p-value of 0, ..., n hits, not increasing, shape (n + 1,).
        alpha (float): Bound of the error probability of this run, in (0, 1).
        k (int): Fewer than k rejections may be wrong.
        order (np.ndarray | None): A permutation of the components, most promising first, that no
            counted draw influenced; by default 0, 1, ....
        pending (np.ndarray | None): False where an earlier run rejected the component; by default
            True everywhere. Components that were rejected earlier stay in the family.
    """

    hits: NDArray[np.integer]
    table: NDArray[np.float64]
    alpha: float
    k: int = 1
    order: NDArray[np.integer] | None = None
    pending: NDArray[np.bool_] | None = None

    @functools.cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many pending components have 0, ..., n hits, shape (n + 1,)."""
        hits = self.hits if self.pending is None else self.hits[self.pending]
        return histogram(hits, len(self.table) - 1)

    def attains(self, critical: float) -> int:
        """Smallest number of hits with a p-value of at most a critical value; n + 1 if none is."""
        return int(np.count_nonzero(self.table > critical))

    def reject_from(self, cutoff: int) -> Rejections:
        """Rejects every pending component with at least so many hits."""
        mask = self.hits >= cutoff
        return Rejections(mask if self.pending is None else mask & self.pending, cutoff)

    def step_down(self, k: int) -> Rejections:
        """Rejects by the step-down procedure of Lehmann and Romano; with k = 1, by Holm's.

        With the p-values sorted, it rejects ``p_(i)`` while ``p_(i) <= k alpha / (K + k - max(i,
        k))``, and stops at the first failure. The first of equal p-values meets the smallest
        critical value, so they stand or fall together: a walk over the histogram of hits is enough.
        """
        total, counts = self.hits.size, self.counts[::-1]
        before = total - int(counts.sum()) + np.cumsum(counts) - counts
        critical = k * self.alpha / np.maximum(total + k - np.maximum(before + 1, k), 1)
        # Numbers of hits that no component has count as well: groups of a hierarchy may have them.
        failed = self.table[::-1] > critical
        steps = int(np.argmax(failed)) if failed.any() else len(failed)
        return self.reject_from(len(failed) - steps)


class Procedure(ABC):
    """A multiple testing procedure: which null hypotheses of a family are rejected together.

    It must bound the probability that ``k`` or more rejections are wrong by ``alpha``, under any
    dependence between the p-values. It must also do so when it runs on the components that an
    earlier run left pending, at an alpha of its own: group-sequential looks rely on that.

    The p-values of votes take at most n + 1 values. ``Family.table`` lists them by the number of
    hits, so a procedure is a cut-off of the hits, and needs neither a sort nor K p-values.

    To add one, write a subclass and decorate it with ``register``. It is then known to
    ``certify``, the configs, the tools, the planner, the audit and the table in the docs.

    Attributes:
        name (str): What configs and tools call it.
        promise (str): What holds with probability 1 - alpha per input, for the table in the docs.
        source (str): Who showed that it holds.
        takes_k (bool): Whether fewer than ``k`` rejections may be wrong, k being a setting.
        takes_order (bool): Whether it tests the components in an order, see ``Family``.
        steps_down (bool): Whether its critical values rise once something was rejected.
        planning_note (str): What the planner's figures mean, where that needs a sentence.
    """

    name: ClassVar[str]
    promise: ClassVar[str] = 'no certificate is wrong'
    source: ClassVar[str] = ''
    takes_k: ClassVar[bool] = False
    takes_order: ClassVar[bool] = False
    steps_down: ClassVar[bool] = True
    planning_note: ClassVar[str] = ''

    @abstractmethod
    def run(self, family: Family) -> Rejections:
        """Rejects pending null hypotheses of one family."""

    def critical_value(self, alpha: float, num_components: int, k: int = 1) -> float:
        """Largest p-value that the very first rejection may have; proportional to alpha."""
        return k * alpha / max(num_components, 1)

    def next_critical_value(
        self, alpha: float, num_components: int, rejected: int, k: int = 1
    ) -> float:
        """``critical_value`` after so many rejections; the planner forecasts by it."""
        left = num_components - rejected if self.steps_down else num_components
        return self.critical_value(alpha, left, k)

    def first_hits(
        self, table: NDArray[np.float64], alpha: float, num_components: int, k: int = 1
    ) -> int | None:
        """Hits that a first rejection needs while all other components have none.

        With an order, those of the component that it puts first. None if n are not enough. For
        ``table``, see ``Family``.
        """
        hits = int(np.count_nonzero(table > self.critical_value(alpha, num_components, k)))
        return hits if hits < len(table) else None

    @property
    def without_order(self) -> Procedure:
        """What the components that an order puts last meet; without an order, the procedure."""
        return self

    def describe(self, k: int) -> str:
        """What holds for one input with probability at least 1 - alpha, in a sentence."""
        if k > 1:
            return f'fewer than k = {k} certificates of this input are wrong'
        return 'no certificate of this input is wrong'


PROCEDURES: dict[str, Procedure] = {}
"""All procedures by name; ``register`` adds to them."""


def register(cls: type[Procedure]) -> type[Procedure]:
    """Makes a procedure known by its name: a decorator of classes that take no arguments.

    Raises:
        ValueError: If another procedure has the name.

    Examples:
        >>> from mmcert.certify.procedures import Bonferroni, get_procedure, register
        >>> class HalfBonferroni(Bonferroni):
        ...     name = 'half_bonferroni'
        ...
        ...     def critical_value(self, alpha, num_components, k=1):
        ...         return super().critical_value(alpha / 2, num_components, k)
        >>> register(HalfBonferroni).name
        'half_bonferroni'
        >>> get_procedure('half_bonferroni').critical_value(0.04, 20)
        0.001
        >>> del PROCEDURES['half_bonferroni']
    """
    if type(PROCEDURES.setdefault(cls.name, cls())) is not cls:
        raise ValueError(f'there is another procedure of the name {cls.name!r}')
    return cls


def get_procedure(name: str) -> Procedure:
    """The procedure of a name; a ``ValueError`` that lists the legal ones if there is none."""
    if name not in PROCEDURES:
        raise ValueError(f'unknown procedure {name!r}; legal: {", ".join(PROCEDURES)}')
    return PROCEDURES[name]
