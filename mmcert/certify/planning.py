"""What a number of draws can certify, known before the first one is made.

Arguments of all functions:

- ``n`` (int): number of estimation draws, at least 1.
- ``settings`` (CertifySettings): threshold, alpha, procedure, selection and order.
- ``num_components`` (int): size of the family, K.
- ``n0`` (int): number of selection draws, which 'same_draws' counts and 'holdout' needs.

All raise a ``ValueError`` if a value is out of range. Functions that look for a number of draws
raise an ``InfeasiblePlanError`` if no number is enough.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mmcert.certify.binomial import (
    LARGEST_TAU,
    SMALLEST,
    histogram,
    log_smallest_p_value,
    p_value_table,
    upper_tail,
)
from mmcert.certify.certificate import Certificate
from mmcert.certify.checks import check_draws
from mmcert.certify.selection import Counting, allowed, counted_draws, later_look, possible, settle
from mmcert.certify.sequential import GROWTH, spend
from mmcert.certify.settings import CertifySettings
from mmcert.certify.votes import Votes

FIRST_LOOK_FACTOR = 1.25
"""The first look takes this many times the fewest draws that can certify: with just those, a single
vote against the guess is too many."""

MOST_DRAWS = 20_000
"""The search for a number of draws ends here."""

TIE = 1e-9
"""Logarithms of p-value and critical value that are this close are compared as ``certify`` does."""

LARGEST_TABLE = 100_000
"""Up to so many draws, the table of p-values that the tests use decides near ties."""


class InfeasiblePlanError(ValueError):
    """The planned number of draws cannot certify a single component."""


def can_certify(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> bool:
    """Whether unanimous votes would certify a component.

    Every procedure needs a p-value of at most its first critical value to begin, and unanimous
    draws have the smallest p-value.
    """
    critical = _log_critical_value(settings, num_components)
    if critical < math.log(SMALLEST):
        return False

    def is_enough(selection: str) -> bool:
        counted = counted_draws(n, n0, selection)
        smallest = log_smallest_p_value(counted, settings.tau, selection, num_components)
        if abs(smallest - critical) > TIE or counted > LARGEST_TABLE:
            return smallest <= critical
        alone = replace(settings, selection=selection, order='auto')
        return settle(alone, num_components, n0, n).first_hits is not None

    return any(map(is_enough, _selections(settings, n0)))


def min_draws(settings: CertifySettings, num_components: int, n0: int = 0) -> int:
    """Smallest number of estimation draws that can certify anything; see ``can_certify``.

    Raises:
        InfeasiblePlanError: If no number is enough: the critical value is smaller than any
            p-value, or 'holdout' has no selection draws.

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
    """Refuses n draws that cannot certify anything, before they are made.

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
    counted = counted_draws(n, n0, selection)
    smallest = math.exp(log_smallest_p_value(counted, settings.tau, selection, num_components))
    critical = math.exp(_log_critical_value(settings, num_components))
    raise InfeasiblePlanError(
        f'n={n} draws cannot certify anything at tau={settings.tau}, alpha={settings.alpha} with '
        f'{num_components} components ({settings.procedure}, {settings.selection}): even unanimous '
        f'votes have p-value {smallest:.3g} > {critical:.3g}, the first critical value of the '
        f'procedure. The smallest n that can is {least}: set n={least}.'
    )


def max_tau(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> float | None:
    """Largest tau at which n draws can certify anything; None if it would be less than 1/2.

    The radius cannot be larger than that of this tau. The tau of the settings is not used.
    """
    critical = _log_critical_value(settings, num_components)
    # At an exact tie the table decides.
    found = [0.5] if can_certify(n, replace(settings, tau=0.5), num_components, n0) else []
    if critical >= math.log(SMALLEST):
        for selection in _selections(settings, n0):
            counted = counted_draws(n, n0, selection)
            found.append(_max_tau(counted, critical, selection, num_components))
    return max(found, default=0.0) or None


def _max_tau(counted: int, critical: float, selection: str, num_components: int) -> float:
    """Largest tau at which unanimous draws attain a critical value (its logarithm), or 0."""

    def attains(tau: float) -> bool:
        return log_smallest_p_value(counted, tau, selection, num_components) <= critical

    low, high = 0.5, LARGEST_TAU
    if not attains(low):
        return 0.0
    if attains(high):
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if attains(middle) else (low, middle)
    return low


def first_look(settings: CertifySettings, num_components: int, n0: int = 0) -> int:
    """Draws of the first look of a group-sequential run, all looks of which share alpha.

    ``FIRST_LOOK_FACTOR`` times the fewest draws that can certify, at the alpha of the first look, a
    component that no order puts first.
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
    """What a plan can reach at best: whether anything, and what ``min_draws`` and ``max_tau`` say.

    In a group-sequential run, ``min_draws`` is the first look, ``counting`` holds at the last look,
    and ``looks`` are the sizes of all.
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

    It is feasible if the budget reaches the first look. The hits are those at the last look, at its
    share of alpha (at the first look, if that is beyond the budget). At the largest tau, the budget
    just reaches the first look.
    """
    least = first_look(settings, num_components, n0)
    looks = tuple(_sizes_up_to(check_draws(budget, 'budget'), least))
    counting = _at_look(settings, num_components, n0, least, max(len(looks), 1))
    able = math.floor(budget / FIRST_LOOK_FACTOR)
    largest = max_tau(able, _of_first_look(settings), num_components, n0) if able else None
    return Outlook(bool(looks), least, largest, counting, looks)


def _sizes_up_to(most: int, first: int) -> Iterator[int]:
    """The sizes of the looks with at most so many draws."""
    while first <= most:
        yield first
        first *= GROWTH


def _at_look(
    settings: CertifySettings, num_components: int, n0: int, first: int, look: int
) -> Counting:
    """What is counted at a look, where the first look takes ``first`` draws."""
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

    None if no look of up to ``MOST_DRAWS`` is enough.
    """
    first = first_look(settings, num_components, n0)
    for look, size in enumerate(_sizes_up_to(MOST_DRAWS, first), start=1):
        if _is_enough(share, _at_look(settings, num_components, n0, first, look)):
            return size
    return None


def draws_for_share(
    share: float, settings: CertifySettings, num_components: int, n0: int = 0
) -> int | None:
    """Smallest n at which a share of hits certifies, while nothing is certified yet.

    With an order, this is for the component that it puts first. A larger n may fail again, since
    votes are whole numbers. None if no number up to ``MOST_DRAWS`` is enough.
    """
    least = min_draws(settings, num_components, n0)
    if share <= settings.tau:
        return None
    # Rules out most numbers at once: the p-value of one hit more (which an order may save) is at
    # least its first term, and must attain the critical value of the others.
    sizes = np.arange(least, MOST_DRAWS + 1)
    critical = settings.without_order().critical_value(num_components) * (1 + TIE)
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
    """Expected number of components that the next look certifies in addition, at n draws in all.

    An estimate, not a bound: it takes each component's share of hits so far for its probability,
    and tests all of them at the critical value that the next one to be certified meets.
    """
    settings, selection, tau = certificate.settings, certificate.selection, certificate.tested_tau
    assert settings is not None and selection is not None and tau is not None, 'looks are tests'
    hits, counted = votes.stages(selection)[-1]
    counts = histogram(hits[~certificate.certified], counted)
    pending = int(counts.sum())
    if pending == 0:
        return 0.0
    alpha = spend(settings.alpha, len(votes.looks) + 1)
    critical = settings.rule.without_order.next_critical_value(
        alpha, votes.num_components, votes.num_components - pending, certificate.k
    )
    after = counted + n - votes.n
    table = p_value_table(after, tau, selection, votes.num_components)
    cutoff = int(np.count_nonzero(table > critical))
    have = np.arange(counted + 1)
    chance = upper_tail(cutoff - have, n - votes.n, (have + 0.5) / (counted + 1))
    return float(counts @ chance)


@dataclass(frozen=True)
class Decision:
    """Why to stop, or the size of the next look; one of them is None.

    ``gain`` is the share of the components that the next look is expected to certify in addition.
    """

    reason: str | None
    next_look: int | None
    gain: float


@dataclass(frozen=True)
class StoppingRule:
    """When a group-sequential run stops; any rule keeps the certificates valid.

    It stops when the next look takes more than ``budget`` estimation draws, or is not expected to
    certify a further share ``min_gain``, in [0, 1), of the components.
    """

    budget: int
    min_gain: float = 0.01

    def __post_init__(self) -> None:
        check_draws(self.budget, 'budget')
        if not 0 <= self.min_gain < 1:
            raise ValueError(f'min_gain must lie in [0, 1), got {self.min_gain!r}')

    def require_look(self, first: int) -> None:
        """Raises an ``InfeasiblePlanError`` if the budget is smaller than the first look."""
        if self.budget < first:
            raise InfeasiblePlanError(
                f'a budget of {self.budget} draws does not reach the first look, which takes '
                f'{first} to be able to certify anything: raise the budget, or lower tau'
            )

    def decide(self, votes: Votes, certificate: Certificate) -> Decision:
        """Decides at a look, from group-sequential votes and what they certify."""
        if certificate.certified.all():
            return Decision('all components are certified', None, 0.0)
        following = votes.n * GROWTH
        gain = forecast(votes, certificate, following) / votes.num_components
        if following > self.budget:
            return Decision('the budget is spent', None, gain)
        if gain < self.min_gain:
            return Decision('more draws would add little', None, gain)
        return Decision(None, following, gain)


def _selections(settings: CertifySettings, n0: int) -> tuple[str, ...]:
    """The selections that are left open; none if 'holdout' has no selection draws."""
    legal = allowed(n0)
    return tuple(selection for selection in possible(settings, legal) if selection in legal)


def _log_critical_value(settings: CertifySettings, num_components: int) -> float:
    """Logarithm of the first critical value, which may itself underflow."""
    k = settings.k_for(num_components)
    at_one = settings.rule.critical_value(1.0, num_components, k)
    return math.log(settings.alpha) + math.log(at_one)
