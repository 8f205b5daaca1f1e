"""What a number of draws can certify at all, known before the first one is made.

Throughout, ``n`` is the number of estimation draws and ``n0`` that of selection draws, which count
for 'same_draws' and which 'holdout' needs; ``num_components`` is the size of the family, K. All
functions raise a ``ValueError`` if a value is out of range, and those that look for a number of
draws an ``InfeasiblePlanError`` if no number is enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mmcert.certify.binomial import (
    LARGEST_TAU,
    SMALLEST,
    best_tau,
    histogram,
    log_smallest_p_value,
    p_value_table,
    upper_tail,
)
from mmcert.certify.certificate import Certificate
from mmcert.certify.checks import check_draws
from mmcert.certify.selection import Counting, allowed, later_look, possible, settle
from mmcert.certify.sequential import GROWTH, spend
from mmcert.certify.settings import CertifySettings
from mmcert.certify.votes import Votes

FIRST_LOOK_FACTOR = 1.25
"""The first look takes so many times the draws that can certify at all: with just those, a single
vote against the guess is too many."""

MOST_DRAWS = 20_000
"""Where the search for a number of draws gives up."""

TIE = 1e-9
"""P-values this close to a critical value (in logarithms) are compared as ``certify`` does."""

LARGEST_TABLE = 100_000
"""Draws up to which the table of p-values that tests use decides near ties."""


class InfeasiblePlanError(ValueError):
    """The planned number of draws cannot certify a single component."""


def can_certify(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> bool:
    """Whether any vote counts could certify a component.

    Every procedure needs a p-value of at most its first critical value to begin, and the smallest
    p-value is that of unanimous draws.

    Args:
        n (int): Number of estimation draws, at least 1.
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws.

    Returns:
        bool: True if unanimous votes are enough.
    """
    critical = _log_critical_value(settings, num_components)
    if critical < math.log(SMALLEST):
        return False

    def is_enough(selection: str) -> bool:
        counted = _counted(n, selection, n0)
        smallest = log_smallest_p_value(counted, settings.tau, selection, num_components)
        if abs(smallest - critical) > TIE or counted > LARGEST_TABLE:
            return smallest <= critical
        alone = replace(settings, selection=selection, order='auto')
        return settle(alone, num_components, n0, n).first_hits is not None

    return any(map(is_enough, _selections(settings, n0)))


def min_draws(settings: CertifySettings, num_components: int, n0: int = 0) -> int:
    """Smallest n that can certify anything; see ``can_certify``.

    Args:
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws.

    Returns:
        int: The number of estimation draws.

    Raises:
        InfeasiblePlanError: If no number is enough: the critical value is smaller than any
            p-value, or
            'holdout' is asked for without selection draws.

    Examples:
        >>> from mmcert.certify import CertifySettings, min_draws
        >>> settings = CertifySettings(tau=0.75, alpha=0.001, procedure='holm', selection='holdout')
        >>> min_draws(settings, num_components=360 * 480, n0=10)
        66
    """
    critical, selections = _log_critical_value(settings, num_components), _selections(settings, n0)
    if not selections:
        raise InfeasiblePlanError(
            "there are no selection draws (n0=0), which selection='holdout' and order='selection' "
            'need: n0 must be at least 1'
        )
    if critical < math.log(SMALLEST):
        raise InfeasiblePlanError(
            f'alpha={settings.alpha} with {num_components} components ({settings.procedure}): the '
            f'first critical value of the procedure, 10^{critical / math.log(10):.1f}, is smaller '
            f'than any p-value that is told from 0 ({SMALLEST:.3g})'
        )
    counted = n0 if 'same_draws' in selections else 0
    n = max(1, math.floor(critical / math.log(settings.tau)) - counted)
    while not can_certify(n, settings, num_components, n0):
        n += 1
    return n


def require_feasible(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> None:
    """Refuses a plan that cannot certify anything, before its draws are paid for.

    Args:
        n (int): Number of estimation draws, at least 1.
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws.

    Raises:
        InfeasiblePlanError: If nothing can be certified; the message gives the smallest n.

    Examples:
        >>> from mmcert.certify import CertifySettings, require_feasible
        >>> require_feasible(100, CertifySettings(tau=0.75, alpha=0.001), 360 * 480, n0=10)
        >>> require_feasible(20, CertifySettings(tau=0.75, alpha=0.001, procedure='holm'), 100)
        Traceback (most recent call last):
        ...
        mmcert.certify.planning.InfeasiblePlanError: n=20 draws cannot certify anything at ...
    """
    if can_certify(check_draws(n), settings, num_components, n0):
        return
    # Where no n is enough, this says so.
    least = min_draws(settings, num_components, n0)
    selection = settle(settings, num_components, n0, n).selection
    smallest = log_smallest_p_value(
        _counted(n, selection, n0), settings.tau, selection, num_components
    )
    raise InfeasiblePlanError(
        f'n={n} draws cannot certify anything at tau={settings.tau}, alpha={settings.alpha} with '
        f'{num_components} components ({settings.procedure}, {settings.selection}): even unanimous '
        f'votes have p-value {math.exp(smallest):.3g} > '
        f'{math.exp(_log_critical_value(settings, num_components)):.3g}, the first critical value '
        f'of the procedure. The smallest n that can is {least}.'
    )


def max_tau(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> float | None:
    """Largest tau at which n draws can certify anything; None if it would be less than 1/2.

    The radius cannot be larger than that of this tau. The tau of the settings is not used.
    """
    critical = _log_critical_value(settings, num_components)
    found = [
        _max_tau(_counted(n, selection, n0), critical, selection, num_components)
        for selection in _selections(settings, n0)
    ]
    if best := [tau for tau in found if tau is not None]:
        return max(best)
    # At an exact tie the table decides.
    return 0.5 if can_certify(n, replace(settings, tau=0.5), num_components, n0) else None


def _max_tau(counted: int, critical: float, selection: str, num_components: int) -> float | None:
    """Largest tau at which unanimous draws attain a critical value, given by its logarithm."""

    def attains(tau: float) -> bool:
        return log_smallest_p_value(counted, tau, selection, num_components) <= critical

    # The p-value is the same up to here, since same draws are tested at this or more.
    low, high = 0.5, LARGEST_TAU
    if selection == 'same_draws' and counted > 1:
        low = float(best_tau(counted, counted, num_components))
    if critical < math.log(SMALLEST) or not attains(low):
        return None
    if attains(high):
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if attains(middle) else (low, middle)
    return low


def first_look(settings: CertifySettings, num_components: int, n0: int = 0) -> int:
    """Draws of the first look of a group-sequential run.

    Args:
        settings (CertifySettings): The settings; alpha is what all looks share.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws.

    Returns:
        int: ``FIRST_LOOK_FACTOR`` times the draws with which the components that no order puts
        first can be certified at the alpha of the first look.
    """
    return math.ceil(FIRST_LOOK_FACTOR * min_draws(_of_first_look(settings), num_components, n0))


def _of_first_look(settings: CertifySettings) -> CertifySettings:
    """The settings under which the first look must be able to certify something."""
    at_look = replace(settings, alpha=spend(settings.alpha, 1))
    if not settings.rule.takes_order:
        return at_look
    selections = possible(settings)
    selection = selections[0] if len(selections) == 1 else settings.selection
    return replace(at_look.without_order(), selection=selection)


@dataclass(frozen=True)
class Outlook:
    """What a plan can reach at best.

    Attributes:
        feasible (bool): Whether anything can be certified.
        min_draws (int): Smallest n that can; of a group-sequential run, its first look.
        max_tau (float | None): Largest tau that n draws can certify; None if below 1/2.
        counting (Counting): What is counted and tested, and the hits that are needed while no
            component is certified yet; of a group-sequential run, at the last look.
        looks (tuple[int, ...]): The looks of a group-sequential run; empty if n is fixed.
    """

    feasible: bool
    min_draws: int
    max_tau: float | None
    counting: Counting
    looks: tuple[int, ...] = ()


def outlook(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> Outlook:
    """What n draws can reach at best."""
    least = min_draws(settings, num_components, n0)
    counting = settle(settings, num_components, n0, n)
    largest = max_tau(n, settings, num_components, n0)
    return Outlook(counting.first_hits is not None, least, largest, counting)


def outlook_in_looks(
    budget: int, settings: CertifySettings, num_components: int, n0: int = 0
) -> Outlook:
    """What a group-sequential run can reach at best within a budget of draws.

    It is feasible if the budget reaches the first look. Its hits are those at the last look, at
    that look's share of alpha (at the first look, if that is beyond the budget). Its largest tau is
    the one at which the budget reaches the first look.
    """
    least = first_look(settings, num_components, n0)
    looks = tuple(itertools.takewhile(lambda n: n <= check_draws(budget, 'budget'), _sizes(least)))
    counting = _at_look(settings, num_components, n0, least, max(len(looks), 1))
    able = math.floor(budget / FIRST_LOOK_FACTOR)
    largest = max_tau(able, _of_first_look(settings), num_components, n0) if able else None
    return Outlook(bool(looks), least, largest, counting, looks)


def _sizes(first: int) -> Iterator[int]:
    """The sizes of all looks, whatever the budget is."""
    return (first * GROWTH**look for look in itertools.count())


def _at_look(
    settings: CertifySettings, num_components: int, n0: int, first: int, look: int
) -> Counting:
    """What is counted at a look, the first of which takes so many draws."""
    at_first = replace(settings, alpha=spend(settings.alpha, 1))
    counting = settle(at_first, num_components, n0, first)
    if look == 1:
        return counting
    at_look = replace(settings, alpha=spend(settings.alpha, look))
    return later_look(counting, at_look, num_components, n0, first * GROWTH ** (look - 1))


def look_for_share(
    share: float, settings: CertifySettings, num_components: int, n0: int = 0
) -> int | None:
    """Draws of the first look at which a share of hits certifies, while nothing is certified yet.

    None if that is no look of up to ``MOST_DRAWS``.
    """
    first = first_look(settings, num_components, n0)
    looks = itertools.takewhile(lambda size: size <= MOST_DRAWS, _sizes(first))
    for look, size in enumerate(looks, start=1):
        if _is_enough(share, _at_look(settings, num_components, n0, first, look)):
            return size
    return None


def draws_for_share(
    share: float, settings: CertifySettings, num_components: int, n0: int = 0
) -> int | None:
    """Smallest n at which a share of hits certifies, while nothing is certified yet.

    With an order, the component that is put first. A larger n need not be enough again, since the
    share allows whole votes only. None if no number up to ``MOST_DRAWS`` is enough.
    """
    least = min_draws(settings, num_components, n0)
    if share <= settings.tau:
        return None
    # Most numbers are ruled out all at once: the p-value of one hit more (which an order may save)
    # is at least the first term, and has to attain the critical value of the others.
    sizes, k = np.arange(least, MOST_DRAWS + 1), settings.k_for(num_components)
    plain = settings.rule.without_order
    critical = plain.critical_value(settings.alpha, num_components, k) * (1 + TIE)
    able = np.zeros(len(sizes), dtype=bool)
    for selection in _selections(settings, n0):
        counted = sizes + (n0 if selection == 'same_draws' else 0)
        able |= upper_tail(np.floor(share * counted) + 1, counted, settings.tau) <= critical
    for n in sizes[able].tolist():
        if _is_enough(share, settle(settings, num_components, n0, n)):
            return n
    return None


def _is_enough(share: float, counting: Counting) -> bool:
    """Whether a share of hits certifies while nothing is certified yet."""
    return counting.first_hits is not None and counting.first_hits <= share * counting.counted


def forecast(votes: Votes, certificate: Certificate, n: int) -> float:
    """Estimates how many components more draws would certify in addition.

    It is an estimate, not a bound: each component's probability is taken to be its share of hits so
    far, and the cut-off to be that of the components that are pending now.

    Args:
        votes (Votes): Group-sequential votes.
        certificate (Certificate): What they certify so far.
        n (int): Number of estimation draws at the next look, more than now.

    Returns:
        float: Expected number of further certified components.
    """
    settings = certificate.settings
    hits, counted = votes.stages(certificate.selection)[-1]
    counts = histogram(hits[~certificate.certified], counted)
    pending = int(counts.sum())
    if pending == 0:
        return 0.0
    alpha = spend(settings.alpha, len(votes.looks) + 1)
    critical = settings.rule.without_order.critical_value(alpha, pending, certificate.k)
    after = counted + n - votes.n
    table = p_value_table(
        after, certificate.tested_tau, certificate.selection, votes.num_components
    )
    cutoff = int(np.count_nonzero(table > critical))
    have = np.arange(counted + 1)
    chance = upper_tail(cutoff - have, n - votes.n, (have + 0.5) / (counted + 1))
    return float(counts @ chance)


@dataclass(frozen=True)
class Decision:
    """What a stopping rule says at a look.

    Attributes:
        reason (str | None): Why to stop; None to go on.
        next_look (int | None): Number of estimation draws of the next look, if there is one.
        gain (float): Share of the components that the next look is expected to certify in addition.
    """

    reason: str | None
    next_look: int | None
    gain: float


@dataclass(frozen=True)
class StoppingRule:
    """When a group-sequential run stops; any rule keeps the certificates valid.

    Attributes:
        budget (int): Most estimation draws.
        min_gain (float): Stops when the next look is not expected to certify at least this share of
            the components in addition, in [0, 1).

    Raises:
        ValueError: If a value is out of range.
    """

    budget: int
    min_gain: float = 0.01

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_draws(self.budget, 'budget')
        if not 0 <= self.min_gain < 1:
            raise ValueError(f'min_gain must lie in [0, 1), got {self.min_gain!r}')

    def require_look(self, first: int) -> None:
        """Refuses a budget that does not reach the first look, before its draws are paid for.

        Args:
            first (int): Estimation draws of the first look.

        Raises:
            InfeasiblePlanError: If the budget is smaller.
        """
        if self.budget < first:
            raise InfeasiblePlanError(
                f'a budget of {self.budget} draws does not reach the first look, which takes '
                f'{first} to be able to certify anything: raise the budget, or lower tau'
            )

    def decide(self, votes: Votes, certificate: Certificate) -> Decision:
        """Decides at a look.

        Args:
            votes (Votes): Group-sequential votes.
            certificate (Certificate): What they certify.

        Returns:
            Decision: Whether to stop, why, and what the next look is expected to add.
        """
        if certificate.certified.all():
            return Decision('all components are certified', None, 0.0)
        following = votes.n * GROWTH
        gain = forecast(votes, certificate, following) / votes.num_components
        if following > self.budget:
            return Decision('the budget is spent', None, gain)
        if gain < self.min_gain:
            return Decision('more draws would add little', None, gain)
        return Decision(None, following, gain)


def _counted(n: int, selection: str, n0: int) -> int:
    return check_draws(n) + (n0 if selection == 'same_draws' else 0)


def _selections(settings: CertifySettings, n0: int) -> tuple[str, ...]:
    """The selections that are left open; none for 'holdout' without draws to choose by."""
    legal = allowed(n0)
    return tuple(selection for selection in possible(settings, legal) if selection in legal)


def _log_critical_value(settings: CertifySettings, num_components: int) -> float:
    k = settings.k_for(num_components)
    return settings.rule.log_critical_value(settings.alpha, num_components, k)
