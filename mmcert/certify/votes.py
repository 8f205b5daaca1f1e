"""The votes of one input: everything that its certificates are computed from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.binomial import SELECTIONS
from mmcert.certify.checks import check_draws, check_hits, check_integers


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes of the smoothed model on one input (one family).

    The guess must come from the ``n0`` selection draws and the hits from ``n`` further draws, all
    independent: nothing here can check that. With n0 = 0 the guess is the most frequent class of
    the ``n`` draws themselves, and only ``selection='same_draws'`` can certify it.

    Votes of an enumeration are no draws: the base model was run at each of ``n`` parameters of a
    finite set, its class on the clean input is the guess, and no test can be made of them.

    Attributes:
        guess (np.ndarray): Guess class of each component, any shape, integers >= 0.
        hits (np.ndarray): Estimation draws that agree with the guess, the shape of ``guess``,
            integers in [0, n].
        n (int): Number of estimation draws, at least 1.
        n0 (int): Number of selection draws, at least 0.
        selection_hits (np.ndarray | None): Selection draws that agree with the guess, integers in
            [0, n0]; needed to count all draws, and for an order of the components.
        looks (tuple[int, ...]): Numbers of estimation draws after which sampling might have
            stopped, increasing, the last one n; empty if n was fixed beforehand.
        history (tuple[np.ndarray, ...]): Hits at all looks but the last.
        group_votes (tuple[Votes, ...]): Votes for the groups of a hierarchy, finest level first:
            the same draws, with groups in place of classes.
        enumerated (bool): Whether these are votes of an enumeration, for ``certify_enumerated``.
        table (np.ndarray | None): Of a pooled test (see ``pooled``), whose ``hits`` are scores: the
            p-value of each of 0, 1, ..., not increasing. The null hypothesis
            of a component is then that its class has a probability of at most 1/2 at some point of
            the attack set. None for hits, which are binomial.
        runner_up (np.ndarray | None): The most frequent class after the guess, in the draws that
            chose the guess, if it was kept; 0 where they gave no other class. No certificate
            follows from it: which class is second is an estimate.
        runner_up_hits (np.ndarray | None): How many of those draws gave it.

    Raises:
        ValueError: If shapes differ, a value is out of range, or votes of an enumeration have what
            only draws have.

    Examples:
        >>> import numpy as np
        >>> from mmcert.certify import Votes
        >>> labels = np.random.default_rng(0).integers(0, 3, (110, 4))  # 110 draws of 4 pixels
        >>> labels[:, 0] = 2
        >>> selection, estimation = labels[:10], labels[10:]
        >>> guess = np.stack([(selection == c).sum(axis=0) for c in range(3)]).argmax(axis=0)
        >>> votes = Votes(guess, hits=(estimation == guess).sum(axis=0), n=100, n0=10)
        >>> int(votes.guess[0]), int(votes.hits[0]), votes.num_components
        (2, 100, 4)
    """

    guess: NDArray[np.integer]
    hits: NDArray[np.integer]
    n: int
    n0: int
    selection_hits: NDArray[np.integer] | None = None
    looks: tuple[int, ...] = ()
    history: tuple[NDArray[np.integer], ...] = ()
    group_votes: tuple[Votes, ...] = ()
    enumerated: bool = False
    table: NDArray[np.float64] | None = None
    runner_up: NDArray[np.integer] | None = None
    runner_up_hits: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        """Checks the fields, and turns lists into arrays."""
        object.__setattr__(self, 'n', check_draws(self.n))
        if self.n0 != 0 or isinstance(self.n0, bool):
            object.__setattr__(self, 'n0', check_draws(self.n0, 'n0'))
        self._check_table()
        largest = self.n if self.table is None else len(self.table) - 1
        object.__setattr__(self, 'hits', check_hits(self.hits, largest))
        object.__setattr__(self, 'guess', check_integers(self.guess, 'guess'))
        self._check_shape(self.guess, 'guess')
        if self.guess.min(initial=0) < 0:
            raise ValueError(f'guess must hold classes >= 0, got {self.guess.min()}')
        if self.selection_hits is not None:
            if self.n0 == 0 and np.any(self.selection_hits):
                raise ValueError('selection_hits must be 0 without selection draws (n0=0)')
            selection_hits = check_hits(self.selection_hits, max(self.n0, 1))
            self._check_shape(selection_hits, 'selection_hits')
            object.__setattr__(self, 'selection_hits', selection_hits)
        self._check_runner_up()
        if self.enumerated and (
            self.n0 or self.looks or self.group_votes or self.selection_hits is not None
        ):
            raise ValueError('an enumeration has no selection draws, looks or groups')
        self._check_looks()
        for votes in self.group_votes:
            self._check_shape(votes.guess, 'group votes')
            if (votes.n, votes.n0, votes.looks) != (self.n, self.n0, self.looks):
                raise ValueError('group votes must come from the same draws')

    def _check_runner_up(self) -> None:
        if self.runner_up is None and self.runner_up_hits is None:
            return
        if self.runner_up is None or self.runner_up_hits is None:
            raise ValueError('runner_up and runner_up_hits go together: give both or none')
        checked = {
            'runner_up': check_integers(self.runner_up, 'runner_up'),
            'runner_up_hits': check_hits(self.runner_up_hits, self.choosing_draws),
        }
        for name, array in checked.items():
            self._check_shape(array, name)
            object.__setattr__(self, name, array)

    def _check_table(self) -> None:
        if self.table is None:
            return
        if self.looks or self.group_votes or self.selection_hits is not None or self.n0 == 0:
            raise ValueError('scores of a pooled test have no looks, groups or selection hits')
        table = np.asarray(self.table, dtype=np.float64)
        falls = table.ndim == 1 and len(table) > 0 and bool(np.all(np.diff(table) <= 0))
        if not falls or table[0] != 1 or not table[-1] >= 0:
            raise ValueError(f'a table of p-values must fall from 1, got {self.table}')
        object.__setattr__(self, 'table', table)

    def _check_looks(self) -> None:
        if not self.looks and not self.history:
            return
        looks = self.looks
        if looks[-1:] != (self.n,) or any(a >= b for a, b in itertools.pairwise(looks)):
            raise ValueError(f'looks must increase up to n={self.n}, got {looks}')
        if len(self.history) != len(looks) - 1:
            raise ValueError(
                f'{len(looks)} looks need the hits at {len(looks) - 1} earlier ones, got '
                f'{len(self.history)}'
            )
        checked = tuple(check_hits(h, n) for h, n in zip(self.history, looks, strict=False))
        for hits in checked:
            self._check_shape(hits, 'history')
        object.__setattr__(self, 'history', checked)

    def _check_shape(self, array: NDArray[np.integer], name: str) -> None:
        if array.shape != self.hits.shape:
            raise ValueError(
                f'{name} and hits must have one shape, got {array.shape} and {self.hits.shape}'
            )

    @property
    def num_components(self) -> int:
        """Number of components K, the size of the family."""
        return int(self.guess.size)

    @property
    def choosing_draws(self) -> int:
        """Number of draws that chose the guess: the selection draws, or all if there are none."""
        return self.n0 or self.n

    @property
    def selections(self) -> tuple[str, ...]:
        """The selections that these votes can be certified with."""
        if self.n0 == 0:
            return ('same_draws',)
        return SELECTIONS if self.selection_hits is not None else ('holdout',)

    def stages(self, selection: str) -> list[tuple[NDArray[np.integer], int]]:
        """The counts that are tested at each look: one pair per look, or one alone if n was fixed.

        'holdout' counts the estimation draws, 'same_draws' all draws. A pair holds the counts of
        agreement with the guess, in the shape of ``hits``, and the number of counted draws.

        Raises:
            ValueError: If these votes cannot be counted so; the message says why.
        """
        if self.enumerated:
            raise ValueError(
                'these votes are of an enumeration, where nothing was drawn: there is nothing to '
                'test, and no tau or alpha (see certify_enumerated)'
            )
        if selection == 'holdout' and self.n0 == 0:
            raise ValueError("the votes have no selection draws (n0=0): use selection='same_draws'")
        stages = list(zip([*self.history, self.hits], self.looks or (self.n,), strict=True))
        if selection == 'holdout' or self.n0 == 0:
            return stages
        if self.selection_hits is None:
            raise ValueError(
                "selection='same_draws' counts the selection draws as well, and these votes lack "
                'selection_hits'
            )
        first, n0 = self.selection_hits, self.n0
        return [(_added(hits, first, n + n0), n + n0) for hits, n in stages]

    def with_look(self, further: Votes) -> Votes:
        """Adds a look: votes of independent draws after these, for the same guess.

        Raises:
            ValueError: If these votes have no looks, the further ones have, or the guesses or the
                numbers of selection draws differ.
        """
        if not self.looks:
            raise ValueError('n was fixed beforehand: further draws would be an unplanned look')
        if further.looks:
            raise ValueError('the votes of a further look must not have looks of their own')
        if self.n0 != further.n0 or not np.array_equal(self.guess, further.guess):
            raise ValueError('a further look needs votes with the same guess and n0')
        n = self.n + further.n
        pairs = zip(self.group_votes, further.group_votes, strict=True)
        return replace(
            self,
            hits=_added(self.hits, further.hits, n),
            n=n,
            looks=(*self.looks, n),
            history=(*self.history, self.hits),
            group_votes=tuple(votes.with_look(new) for votes, new in pairs),
        )

    def as_first_look(self) -> Votes:
        """The same votes as the first look of a group-sequential run."""
        group_votes = tuple(votes.as_first_look() for votes in self.group_votes)
        return replace(self, looks=(self.n,), history=(), group_votes=group_votes)


def _added(
    first: NDArray[np.integer], second: NDArray[np.integer], largest: int
) -> NDArray[np.integer]:
    """The sum of two counts, in the smallest type for values up to ``largest``."""
    return np.add(first, second, dtype=np.min_scalar_type(largest), casting='unsafe')
