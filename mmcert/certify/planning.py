"""What a number of draws can certify at all, known before the first one is made."""

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
"""The first look of a group-sequential run takes so many times the draws that can certify at all:
with just those, a single vote against the guess is too many."""


MOST_DRAWS = 20_000
"""Where the search for a number of draws gives up."""

TIE = 1e-9
"""Logarithms of p-values and levels that are as close as this are compared as ``certify`` does."""

LARGEST_TABLE = 100_000
"""Draws up to which the table of p-values that tests use decides near ties."""


class InfeasiblePlanError(ValueError):
    """The planned number of draws cannot certify a single component."""


def can_certify(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> bool:
    """Whether any vote counts could certify a component.

    Every procedure needs a p-value of at most its first level to begin (alpha / K for Bonferroni
    and Holm, k * alpha / K for k-FWER, alpha for the component that ``ordered_holm`` puts first),
    and the smallest one attainable is that of unanimous draws.

    Args:
        n (int): Number of estimation draws, at least 1.
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'; 'holdout' needs some.

    Returns:
        bool: True if unanimous votes are enough.

    Raises:
        ValueError: If a value is out of range.
    """
    level = _log_level(settings, num_components)
    if level < math.log(SMALLEST):
        return False

    def is_enough(selection: str) -> bool:
        counted = _counted(n, selection, n0)
        smallest = log_smallest_p_value(counted, settings.tau, selection, num_components)
        if abs(smallest - level) > TIE or counted > LARGEST_TABLE:
            return smallest <= level
        alone = replace(settings, selection=selection, order='auto')
        return settle(alone, num_components, n0, n).first_hits is not None

    return any(map(is_enough, _selections(settings, n0)))


def min_draws(settings: CertifySettings, num_components: int, n0: int = 0) -> int:
    """Smallest n that can certify anything; see ``can_certify``.

    Args:
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        int: The number of estimation draws.

    Raises:
        InfeasiblePlanError: If no number is enough: the level is smaller than any p-value, or
            'holdout' is asked for without selection draws.
        ValueError: If a value is out of range.
    """
    level, selections = _log_level(settings, num_components), _selections(settings, n0)
    if not selections:
        raise InfeasiblePlanError(
            "there are no selection draws (n0=0), which selection='holdout' and order='selection' "
            'need: n0 must be at least 1'
        )
    if level < math.log(SMALLEST):
        raise InfeasiblePlanError(
            f'alpha={settings.alpha} with {num_components} components ({settings.procedure}): the '
            f'first level of the procedure, 10^{level / math.log(10):.1f}, is smaller than any '
            f'p-value that is told from 0 ({SMALLEST:.3g})'
        )
    counted = n0 if 'same_draws' in selections else 0
    n = max(1, math.floor(level / math.log(settings.tau)) - counted)
    while not can_certify(n, settings, num_components, n0):
        n += 1
    return n


def max_tau(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> float | None:
    """Largest tau at which n draws can certify anything: the radius cannot be larger.

    Args:
        n (int): Number of estimation draws, at least 1.
        settings (CertifySettings): The settings; their tau is not used.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        float | None: The largest tau; None if it would be less than 1/2.

    Raises:
        ValueError: If a value is out of range.
    """
    level = _log_level(settings, num_components)
    found = [
        _max_tau(_counted(n, selection, n0), level, selection, num_components)
        for selection in _selections(settings, n0)
    ]
    if best := [tau for tau in found if tau is not None]:
        return max(best)
    # At an exact tie the table decides.
    return 0.5 if can_certify(n, replace(settings, tau=0.5), num_components, n0) else None


def _max_tau(counted: int, level: float, selection: str, num_components: int) -> float | None:
    """Largest tau at which unanimous draws attain the level, given by its logarithm."""

    def excess(tau: float) -> float:
        """By how much the smallest p-value exceeds the level, in logarithms: it may underflow."""
        return log_smallest_p_value(counted, tau, selection, num_components) - level

    # The p-value is the same up to here, since same draws are tested at this or more.
    lowest = 0.5
    if selection == 'same_draws' and counted > 1:
        lowest = float(best_tau(counted, counted, num_components))
    if level < math.log(SMALLEST) or excess(lowest) > 0:
        return None
    if excess(LARGEST_TAU) <= 0:
        return LARGEST_TAU
    low, high = lowest, LARGEST_TAU
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return low


def require_feasible(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> None:
    """Refuses a plan that cannot certify anything, before its draws are paid for.

    Args:
        n (int): Number of estimation draws, at least 1.
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Raises:
        InfeasiblePlanError: If nothing can be certified; the message gives the smallest n.
        ValueError: If a value is out of range.
    """
    if can_certify(check_draws(n), settings, num_components, n0):
        return
    # Where no n is enough, it is this that says so.
    least = min_draws(settings, num_components, n0)
    selection = settle(settings, num_components, n0, n).selection
    smallest = log_smallest_p_value(
        _counted(n, selection, n0), settings.tau, selection, num_components
    )
    raise InfeasiblePlanError(
        f'n={n} draws cannot certify anything at tau={settings.tau}, alpha={settings.alpha} with '
        f'{num_components} components ({settings.procedure}, {settings.selection}): even unanimous '
        f'votes have p-value {math.exp(smallest):.3g} > '
        f'{math.exp(_log_level(settings, num_components)):.3g}, the first level of the procedure. '
        f'The smallest n that can is {least}.'
    )


def first_look(settings: CertifySettings, num_components: int, n0: int = 0) -> int:
    """Draws of the first look of a group-sequential run.

    Args:
        settings (CertifySettings): The settings; alpha is what all looks share.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        int: ``FIRST_LOOK_FACTOR`` times the draws with which Holm's procedure (or k-FWER's) can
        certify anything at the level of the first look, under one of the selections if 'auto'
        leaves them open.
    """
    return math.ceil(FIRST_LOOK_FACTOR * min_draws(_of_first_look(settings), num_components, n0))


def _of_first_look(settings: CertifySettings) -> CertifySettings:
    """The settings that the first look is to be able to certify anything under."""
    at_look = replace(settings, alpha=spend(settings.alpha, 1))
    if not settings.rule.takes_order:
        return at_look
    open_ = possible(settings)
    selection = open_[0] if len(open_) == 1 else settings.selection
    return replace(at_look.without_order(), selection=selection)


def first_hits(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> int | None:
    """Counted hits that are needed while no component is certified yet.

    For 'ordered_holm' they are those of the component that the order puts first, as ``certify``
    takes them: Holm's, or one less where Holm leaves enough of alpha for it.

    Args:
        n (int): Number of estimation draws, at least 1.
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        int | None: The hits; None if n is too small.

    Raises:
        ValueError: If a value is out of range.
    """
    return settle(settings, num_components, n0, n).first_hits if _selections(settings, n0) else None


@dataclass(frozen=True)
class Outlook:
    """What a plan can reach at best.

    Attributes:
        feasible (bool): Whether anything can be certified.
        min_draws (int): Smallest n that can.
        max_tau (float | None): Largest tau that n draws can certify; None if below 1/2.
        selection (str): What 'auto' takes, or what the settings say.
        tested_tau (float): The threshold of the tests, tau or more.
        first_hits (int | None): Counted hits that are needed while no component is certified yet
            (for 'ordered_holm', by the one that the order puts first); None if n is too small.
        probability (float | None): The probability that a component's class needs for an even
            chance of so many hits.
        counted (int): Draws that are counted: n, or n0 + n.
        looks (tuple[int, ...]): The looks of a group-sequential run, the last of which the figures
            of hits are for; empty if n is fixed.
    """

    feasible: bool
    min_draws: int
    max_tau: float | None
    selection: str
    tested_tau: float
    first_hits: int | None
    probability: float | None
    counted: int
    looks: tuple[int, ...] = ()


def outlook(n: int, settings: CertifySettings, num_components: int, n0: int = 0) -> Outlook:
    """What a plan can reach at best; see ``Outlook``.

    Args:
        n (int): Number of estimation draws, at least 1.
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        Outlook: The figures.

    Raises:
        InfeasiblePlanError: If no number of draws is enough, see ``min_draws``.
        ValueError: If a value is out of range.
    """
    least = min_draws(settings, num_components, n0)
    counting = settle(settings, num_components, n0, n)
    largest = max_tau(n, settings, num_components, n0)
    return _outlook(counting, counting.first_hits is not None, least, largest)


def outlook_in_looks(
    budget: int, settings: CertifySettings, num_components: int, n0: int = 0
) -> Outlook:
    """What a group-sequential run can reach at best within a budget.

    Args:
        budget (int): Most estimation draws, at least 1.
        settings (CertifySettings): The settings; alpha is what all looks share.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        Outlook: Feasible if the budget reaches the first look, as ``StoppingRule.require_look``
        has it; then the hits are those at the last look, at its share of alpha (and at the first
        look, if that is beyond the budget). ``min_draws`` is the first look, and ``max_tau`` the
        largest tau at which the budget reaches that.

    Raises:
        InfeasiblePlanError: If no number of draws is enough, see ``min_draws``.
        ValueError: If a value is out of range.
    """
    least = first_look(settings, num_components, n0)
    looks = tuple(itertools.takewhile(lambda n: n <= check_draws(budget, 'budget'), _sizes(least)))
    counting = _at_look(settings, num_components, n0, least, max(len(looks), 1))
    able = math.floor(budget / FIRST_LOOK_FACTOR)
    largest = max_tau(able, _of_first_look(settings), num_components, n0) if able else None
    return replace(_outlook(counting, bool(looks), least, largest), looks=looks)


def _outlook(counting: Counting, feasible: bool, least: int, largest: float | None) -> Outlook:
    return Outlook(
        feasible=feasible,
        min_draws=least,
        max_tau=largest,
        selection=counting.selection,
        tested_tau=counting.tau,
        first_hits=counting.first_hits,
        probability=counting.probability,
        counted=counting.counted,
    )


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
    size = next(itertools.islice(_sizes(first), look - 1, None))
    at_look = replace(settings, alpha=spend(settings.alpha, look))
    return later_look(counting, at_look, num_components, n0, size)


def look_for_share(
    share: float, settings: CertifySettings, num_components: int, n0: int = 0
) -> int | None:
    """The first look at which a share of hits is enough while nothing is certified yet.

    Args:
        share (float): Of the counted draws, in (0, 1].
        settings (CertifySettings): The settings; alpha is what all looks share.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        int | None: Its estimation draws; None if it is not enough at any look of up to
        ``MOST_DRAWS``.

    Raises:
        InfeasiblePlanError: If no number of draws is enough, see ``min_draws``.
        ValueError: If a value is out of range.
    """
    first = first_look(settings, num_components, n0)
    for look, size in enumerate(_sizes(first), start=1):
        if size > MOST_DRAWS:
            return None
        if _is_enough(share, _at_look(settings, num_components, n0, first, look)):
            return size
    raise AssertionError('there is always a larger look')


def draws_for_share(
    share: float, settings: CertifySettings, num_components: int, n0: int = 0
) -> int | None:
    """Smallest n at which a share of hits is enough while nothing is certified yet.

    For 'ordered_holm' it is enough for the component that the order puts first. A larger n need not
    be enough again: the share allows whole votes only.

    Args:
        share (float): Of the counted draws, in (0, 1].
        settings (CertifySettings): The settings.
        num_components (int): Size of the family, K.
        n0 (int): Number of selection draws, which count for 'same_draws'.

    Returns:
        int | None: The number of estimation draws; None if it is not enough at any number up to
        ``MOST_DRAWS``.

    Raises:
        InfeasiblePlanError: If no number of draws is enough, see ``min_draws``.
        ValueError: If a value is out of range.
    """
    least = min_draws(settings, num_components, n0)
    if share <= settings.tau:
        return None
    # Most numbers are ruled out all at once: the p-value of one hit more (which ordered_holm may
    # do without) is at least the first term, and has to attain the level of Holm's procedure.
    sizes, k = np.arange(least, MOST_DRAWS + 1), settings.k_for(num_components)
    level = settings.rule.without_order.first_level(settings.alpha, num_components, k) * (1 + TIE)
    able = np.zeros(len(sizes), dtype=bool)
    for selection in _selections(settings, n0):
        counted = sizes + (n0 if selection == 'same_draws' else 0)
        able |= upper_tail(np.floor(share * counted) + 1, counted, settings.tau) <= level
    for n in sizes[able].tolist():
        if _is_enough(share, settle(settings, num_components, n0, n)):
            return n
    return None


def _is_enough(share: float, counting: Counting) -> bool:
    """Whether a share of hits certifies while nothing is certified yet."""
    return counting.first_hits is not None and counting.first_hits <= share * counting.counted


def forecast(votes: Votes, certificate: Certificate, n: int) -> float:
    """Estimates how many components more draws would certify in addition.

    An estimate, not a bound: each component's probability is taken to be its share of hits so far,
    and the cut-off to be that of the components which are pending now.

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
    level = settings.rule.without_order.first_level(alpha, pending, certificate.k)
    after = counted + n - votes.n
    table = p_value_table(
        after, certificate.tested_tau, certificate.selection, votes.num_components
    )
    cutoff = int(np.count_nonzero(table > level))
    have = np.arange(counted + 1)
    share = (have + 0.5) / (counted + 1)
    chance = upper_tail(cutoff - have, n - votes.n, share)
    return float(counts @ chance)


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


def _counted(n: int, selection: str, n0: int) -> int:
    return check_draws(n) + (n0 if selection == 'same_draws' else 0)


def _selections(settings: CertifySettings, n0: int) -> tuple[str, ...]:
    """The selections that are left open; none for 'holdout' without draws to choose by."""
    legal = allowed(n0)
    return tuple(selection for selection in possible(settings, legal) if selection in legal)


def _log_level(settings: CertifySettings, num_components: int) -> float:
    k = settings.k_for(num_components)
    return settings.rule.log_first_level(settings.alpha, num_components, k)
