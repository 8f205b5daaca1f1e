"""Which draws are counted, and the threshold that they are tested at.

Both follow from the plan alone: from n0, n (or the size of the first look), tau, alpha, K,
procedure and k; from an order that leaves only one selection; and from whether selection draws may
count. Nothing here may look at what was voted for: alpha does not cover a choice by that.

Arguments as in ``planning``. A value that is out of range raises a ``ValueError``.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from mmcert.certify.binomial import SELECTIONS, balanced_tau, check_selection, p_value_table
from mmcert.certify.checks import check_alpha, check_draws
from mmcert.certify.sequential import spend
from mmcert.certify.settings import SELECTION, CertifySettings
from mmcert.certify.votes import Votes

LATER = 5
"""Same draws are tested at the threshold that is best once four fifths of the components are
certified, unless the first ones would need more hits then."""


@dataclass(frozen=True)
class Counting:
    """What is counted and tested.

    Attributes:
        selection (str): 'holdout' or 'same_draws'.
        tau (float): The threshold of the tests, at least that of the settings: a probability above
            this one is above that one.
        counted (int): Draws that are counted: n, or n0 + n.
        first_hits (int | None): Counted hits that a component needs while none is certified yet
            (with an order, the one that it puts first); None if there are too few draws.
    """

    selection: str
    tau: float
    counted: int
    first_hits: int | None

    @property
    def probability(self) -> float | None:
        """The probability that a component's class needs for an even chance of the first hits."""
        return None if self.first_hits is None else even_chance(self.first_hits, self.counted)


@functools.lru_cache(maxsize=1024)
def even_chance(hits: int, counted: int) -> float:
    """The p at which P[Bin(counted, p) >= hits], the incomplete beta function, is 1/2."""
    return float(special.betaincinv(hits, counted - hits + 1, 0.5))


def possible(settings: CertifySettings, legal: Sequence[str] = SELECTIONS) -> tuple[str, ...]:
    """The selections that settings leave open: the one they name, or what the draws allow."""
    if settings.selection != 'auto':
        return (settings.selection,)
    if settings.rule.takes_order and settings.order == 'selection':
        return ('holdout',)
    return tuple(legal)


def settle(
    settings: CertifySettings, num_components: int, n0: int, n: int, legal: Sequence[str] = ()
) -> Counting:
    """Decides what is counted and tested: the one place where 'auto' is resolved.

    'auto' is the selection whose first hits need the smaller class probability for an even chance.
    With an order, these are the hits of the procedure without it: what the first component alone
    needs says nothing of the others. Where unanimous draws are not enough under either selection,
    'auto' is the one under which their p-value is smaller; a selection that can certify goes before
    one that cannot. Where nothing else decides, it is 'same_draws'.

    In a group-sequential run, alpha and n are those of the first look. ``legal`` are the selections
    that the draws allow, by default ``allowed(n0)``.
    """
    selections = possible(settings, legal or allowed(n0))
    found = [_counting(settings, num_components, n0, n, selection) for selection in selections]
    if len(found) == 1:
        return found[0]

    critical = settings.without_order().critical_value(num_components)

    def needs(counting: Counting) -> tuple[float, float, bool]:
        table = p_value_table(counting.counted, counting.tau, counting.selection, num_components)
        hits = int(np.count_nonzero(table > critical))
        share = even_chance(hits, counting.counted) if hits <= counting.counted else math.inf
        return share, float(table[-1]), counting.selection == 'holdout'

    return min(found, key=needs)


def allowed(n0: int) -> tuple[str, ...]:
    """The selections that a number of selection draws allows."""
    return SELECTIONS if n0 > 0 else ('same_draws',)


def counted_draws(n: int, n0: int, selection: str) -> int:
    """Number of draws that a selection counts."""
    return check_draws(n) + (n0 if selection == 'same_draws' else 0)


def settle_votes(votes: Votes, settings: CertifySettings) -> Counting:
    """``settle`` for stored votes, at their first look.

    Raises:
        ValueError: If they are scores of a pooled test, and tau is not 1/2.
    """
    if votes.table is not None and settings.tau != 0.5:
        raise ValueError(
            f'these votes answer for tau=0.5 alone, got {settings.tau}: they come from a pooled '
            'test of whether the class has a probability above 1/2 on the whole attack set'
        )
    first = votes.n
    if votes.looks:
        first, settings = votes.looks[0], replace(settings, alpha=spend(settings.alpha, 1))
    return settle(settings, votes.num_components, votes.n0, first, votes.selections)


def later_look(
    first: Counting, settings: CertifySettings, num_components: int, n0: int, n: int
) -> Counting:
    """What is counted at a later look: the selection and the threshold stay those of the first."""
    counted = counted_draws(n, n0, first.selection)
    table = p_value_table(counted, first.tau, first.selection, num_components)
    k = settings.k_for(num_components)
    hits = settings.rule.first_hits(table, settings.alpha, num_components, k)
    return Counting(first.selection, first.tau, counted, hits)


def _counting(
    settings: CertifySettings, num_components: int, n0: int, n: int, selection: str
) -> Counting:
    tau = settings.tau
    if selection == 'same_draws':
        first = settings.without_order().critical_value(num_components)
        later = min(first * (LATER if settings.rule.steps_down else 1), 1.0)
        counted = counted_draws(n, n0, selection)
        tau = max(tau, balanced_tau(counted, num_components, first, later))
    return later_look(Counting(selection, tau, n, None), settings, num_components, n0, n)


def settle_joint(votes: Votes, alpha: float, selection: str = SELECTION) -> str:
    """The selection for radii that hold at all thresholds together, see ``joint_radii``.

    'auto' is the one under which a unanimous component has the larger bound: a^(1 / m) with m
    counted draws, and a = alpha / K for 'holdout', alpha / (2 K) for 'same_draws'. The first look
    decides. Certificates at one threshold may count another selection.
    """
    if selection != 'auto':
        check_selection(selection)
        return selection
    first = votes.looks[0] if votes.looks else votes.n
    alpha = spend(alpha, 1) if votes.looks else check_alpha(alpha)
    log_alpha = math.log(alpha) - math.log(max(votes.num_components, 1))
    bounds = {
        'holdout': log_alpha / first,
        'same_draws': (log_alpha - math.log(2)) / (first + votes.n0),
    }
    return max(votes.selections, key=lambda selection: bounds[selection])
