"""A statistical audit: procedures against oracle segmentors at the worst points of the null.

An oracle gives each component known class probabilities, so wrong certificates can be counted:
those for a class (or group) of probability at most tau. A family *fails* if it has a wrong
certificate; with k-FWER, if it has k or more. The audit draws many families of votes, some of them
strongly dependent, and compares the share that fails with alpha by an exact confidence interval. It
also runs methods that are known to be invalid: an audit that misses their failures is blind.

An audit cannot prove a procedure right. It can show that it is wrong.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mmcert.certify.binomial import p_value_table
from mmcert.certify.certificate import certify, certify_votes
from mmcert.certify.hierarchy import Hierarchy
from mmcert.certify.pooled import score_table, scores, weighted_tail, weights_for
from mmcert.certify.procedures import PROCEDURES, Holm, OrderedHolm
from mmcert.certify.settings import SELECTION, SELECTION_CHOICES, CertifySettings
from mmcert.certify.simultaneous import joint_radii
from mmcert.certify.votes import Votes

CONFIDENCE = 0.999
"""Of the interval of each failure rate: of some hundred, one is off by chance in ten audits."""

CHUNK = 500
"""Families that are drawn at a time."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """A segmentor whose class probabilities are known.

    Attributes:
        probabilities (np.ndarray): Of each class, shape (K, C).
        coupling (str): How the components of a draw depend: 'independent'; 'identical' (all from
            one uniform number); 'exclusive' (one number on a circle, and errors at different
            places: only one component errs, where possible); 'correlated' (identical in most
            draws, independent in the others).
        order (str): Order of the components for ordered procedures: 'null first' or 'null last'.
    """

    name: str
    probabilities: NDArray[np.float64]
    tau: float = 0.75
    alpha: float = 0.05
    n0: int = 5
    n: int = 48
    coupling: str = 'independent'
    order: str = 'null first'

    def draw(self, rng: np.random.Generator, families: int) -> NDArray[np.uint8]:
        """Label maps, shape (families, n0 + n, K)."""
        components = len(self.probabilities)
        draws = (families, self.n0 + self.n)
        place = rng.random((*draws, components if self.coupling == 'independent' else 1))
        if self.coupling == 'exclusive':
            place = (place + np.arange(components) / components) % 1.0
        elif self.coupling == 'correlated':
            own = rng.random((*draws, 1)) < 0.05
            place = np.where(own, rng.random((*draws, components)), place)
        labels = np.zeros((*draws, components), dtype=np.uint8)
        for bound in self.bounds():
            labels += place >= bound
        return labels

    def bounds(self) -> NDArray[np.float64]:
        """Where a uniform number passes from one class to the next, shape (C - 1, ..., K)."""
        return np.cumsum(self.probabilities, axis=1)[:, :-1].T

    @property
    def margin(self) -> NDArray[np.uint8]:
        """Puts the components in order, as the margin of the clean input does in a run."""
        null = self.probabilities.max(axis=1) <= self.tau + 1e-12
        return (null if self.order == 'null first' else ~null).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PathOracle(Oracle):
    """An attack set that moves the input along a line, and segmentors that look along it.

    The guess of each component, class 0, has the probability 1/2 at a worst place of its own, and
    Phi(distance) around it: as much as any model can have there. The n draws are around the centres
    of ``cells`` equal cells, one centre after the other.

    Attributes:
        places (np.ndarray): Worst place of each component, in [0, length], shape (K,).
        length (float): Of the path, in standard deviations of the noise.
        cells (int): Number of cells, of which n is a multiple.
    """

    places: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    length: float = 0.0
    cells: int = 1

    @property
    def centres(self) -> NDArray[np.float64]:
        """The places of the centres, shape (cells,)."""
        return (np.arange(self.cells) + 0.5) * self.length / self.cells

    def bounds(self) -> NDArray[np.float64]:
        """As of an ``Oracle``, for each draw; the selection draws are at the far end."""
        around = np.repeat(self.centres, self.n // self.cells)
        at = np.concatenate([np.full(self.n0, self.length + 2), around])
        return special.ndtr(np.abs(at[:, None] - self.places))[None]


@dataclass(frozen=True, eq=False)
class Family:
    """Label maps of an oracle, shape (n0 + n, K), with their votes (n fixed)."""

    oracle: Oracle
    labels: NDArray[np.uint8]
    votes: Votes

    def wrong(self, certified: NDArray[np.bool_]) -> int:
        """How many certificates of the guess are wrong."""
        p = self.oracle.probabilities[np.arange(certified.size), self.votes.guess]
        return int(np.count_nonzero(certified & (p <= self.oracle.tau + 1e-12)))

    def in_looks(self) -> Votes:
        """The same votes, looked at after a third, two thirds and all of the draws."""
        n0, n = self.oracle.n0, self.oracle.n
        agree = self.labels[n0:] == self.votes.guess
        looks = (n // 3, 2 * n // 3, n)
        history = tuple(agree[:size].sum(axis=0) for size in looks[:-1])
        return replace(self.votes, looks=looks, history=history)


Test = Callable[[Family, np.random.Generator], bool]
"""Whether a family fails under a method."""


@dataclass(frozen=True, eq=False)
class Method:
    """Something that issues certificates, and whether it should keep its level."""

    name: str
    fails: Test
    valid: bool = True
    share: float = 1.0
    """Of the families to run it on; some methods are slow."""
    oracles: type[Oracle] = Oracle
    """The kind of oracle that it is for."""


@dataclass(frozen=True)
class Finding:
    """How many families failed with one method on one oracle, and bounds of their rate."""

    method: str
    oracle: str
    valid: bool
    families: int
    failed: int
    alpha: float
    low: float
    high: float

    @property
    def violates_level(self) -> bool:
        """Whether the failure rate exceeds alpha, with confidence."""
        return self.low > self.alpha


def table(
    findings: list[Finding], everything: bool = False
) -> list[tuple[str, str, str, str, str, str]]:
    """The worst finding of each method, or every one: rows of a table, below their header."""
    oracle = 'oracle' if everything else 'worst oracle'
    rows = [('method', 'meant to hold', oracle, 'families failed', '99.9 % interval', '')]
    for name in dict.fromkeys(finding.method for finding in findings):
        of_method = (finding for finding in findings if finding.method == name)
        worst_first = sorted(of_method, key=lambda finding: -finding.low)
        rows += [
            (
                name,
                'yes' if finding.valid else 'no',
                finding.oracle,
                f'{finding.failed / finding.families:.4f} (alpha {finding.alpha:g})',
                f'{finding.low:.4f} to {finding.high:.4f}',
                'violated' if finding.violates_level else '',
            )
            for finding in (worst_first if everything else worst_first[:1])
        ]
    return rows


def _certified(settings: CertifySettings, looks: bool = False, groups: bool = False) -> Test:
    """Certificates under some settings; with groups, above the classes a level of pairs of them."""

    def fails(family: Family, _: np.random.Generator) -> bool:
        oracle, hierarchy = family.oracle, None
        votes = family.in_looks() if looks else family.votes
        if groups:
            classes = [str(c) for c in range(oracle.probabilities.shape[1])]
            if len(classes) < 3:
                return False
            pairs = {f'pair {c // 2}': classes[c : c + 2] for c in range(0, len(classes), 2)}
            hierarchy = Hierarchy([pairs], classes)
            labels = hierarchy.groups[0][family.labels].astype(np.uint8)
            grouped = Family(oracle, labels, _count(labels, oracle.n0))
            votes = replace(votes, group_votes=(grouped.in_looks() if looks else grouped.votes,))
        wanted = replace(settings, tau=oracle.tau, alpha=oracle.alpha)
        found = certify_votes(votes, wanted, hierarchy, margin=oracle.margin)
        wrong = family.wrong(found.certified)
        if hierarchy is not None:
            within = hierarchy.groups[0] == found.groups[0][:, None]
            p = (oracle.probabilities * within).sum(axis=1)
            wrong += int(np.count_nonzero((found.level == 1) & (p <= oracle.tau + 1e-12)))
        return wrong >= found.k

    return fails


def _by_selection_votes(procedure: str, selection: str = SELECTION) -> Test:
    """A caller's own order, most selection votes first."""

    def fails(family: Family, _: np.random.Generator) -> bool:
        assert family.votes.selection_hits is not None
        order = np.argsort(family.oracle.n0 - family.votes.selection_hits, kind='stable')
        asked = {'selection': selection, 'order': order}
        return family.wrong(_plainly(family.votes, family.oracle, procedure, **asked)) > 0

    return fails


def _joint(selection: str) -> Test:
    """Simultaneous lower bounds: wrong if one exceeds the probability."""

    def fails(family: Family, _: np.random.Generator) -> bool:
        bounds = joint_radii(
            family.votes, alpha=family.oracle.alpha, radius=float, selection=selection
        )
        p = family.oracle.probabilities[np.arange(bounds.size), family.votes.guess]
        return bool((bounds > np.maximum(p, 0.5) + 1e-6).any())

    return fails


def _pooled(settings: CertifySettings, spread: float = 1.0) -> Test:
    """Pooled tests of all cells; valid unless distances are taken for less than they are."""

    @functools.cache
    def tests_of(oracle: PathOracle) -> tuple[list[Any], NDArray[np.float64]]:
        half, each = oracle.length / oracle.cells / 2, oracle.n // oracle.cells
        centres, tests = oracle.centres, []
        for centre in centres:
            q = special.ndtr(half + spread * np.abs(centres - centre))
            weights = weights_for(q, 0.9)
            tests.append((weights, weighted_tail(q, np.full(len(q), each), weights)))
        return tests, score_table(max(tail[-1] for _, tail in tests))

    def fails(family: Family, _: np.random.Generator) -> bool:
        oracle, votes = family.oracle, family.votes
        assert isinstance(oracle, PathOracle)
        tests, table = tests_of(oracle)
        agree = family.labels[oracle.n0 :] == votes.guess
        hits = agree.reshape(oracle.cells, -1, votes.num_components).sum(axis=1)
        least = np.min([scores(tail[weights @ hits], table) for weights, tail in tests], axis=0)
        pooled = Votes(votes.guess, least, oracle.n, oracle.n0, table=table)
        wanted = replace(settings, tau=0.5, alpha=oracle.alpha)
        found = certify_votes(pooled, wanted, margin=oracle.margin)
        return family.wrong(found.certified & (votes.guess == 0)) >= found.k

    return fails


def _peeking(family: Family, _: np.random.Generator) -> bool:
    """Holm's procedure after every fourth draw, each time at all of alpha."""
    votes, oracle = family.votes, family.oracle
    agree = (family.labels[oracle.n0 :] == votes.guess).cumsum(axis=0)
    certified = np.zeros(votes.num_components, dtype=bool)
    for n in range(4, oracle.n + 1, 4):
        at_look = Votes(votes.guess, agree[n - 1], n, votes.n0)
        certified |= _plainly(at_look, oracle)
    return family.wrong(certified) > 0


def _max_t(family: Family, rng: np.random.Generator, resamples: int = 200) -> bool:
    """Bootstrap of the largest deviation over all components, compared with tau."""
    oracle, votes = family.oracle, family.votes
    agree = (family.labels[oracle.n0 :] == votes.guess).astype(np.float64)
    weights = rng.multinomial(oracle.n, np.full(oracle.n, 1 / oracle.n), resamples) / oracle.n
    mean = agree.mean(axis=0)
    largest = (weights @ agree - mean).max(axis=1)
    certified = mean - oracle.tau > np.quantile(largest, 1 - oracle.alpha)
    return family.wrong(certified) > 0


def _invalid_kfwer(family: Family, _: np.random.Generator) -> bool:
    """k-FWER with k alpha / (K - i + 1) for i > k, where k is the number of true nulls."""
    oracle, votes = family.oracle, family.votes
    k = max(1, family.wrong(np.ones(votes.num_components, dtype=bool)))
    p = p_value_table(oracle.n, oracle.tau, 'holdout')[votes.hits]
    order = np.argsort(p, kind='stable')
    rank = np.arange(1, p.size + 1)
    critical = k * oracle.alpha / np.where(rank <= k, p.size, p.size - rank + 1)
    certified = np.zeros(p.size, dtype=bool)
    certified[order] = np.logical_and.accumulate(p[order] <= critical)
    return family.wrong(certified) >= k


def _one_tail(family: Family, _: np.random.Generator) -> bool:
    """The most frequent class of the counted draws, tested as if it had been fixed before."""
    oracle = family.oracle
    top = _count(family.labels, len(family.labels))
    pretended = Votes(top.guess, top.hits, len(family.labels), 1)
    return replace(family, votes=top).wrong(_plainly(pretended, oracle)) > 0


def _repeated(family: Family, _: np.random.Generator) -> bool:
    """Every draw counted twice, as if one draw served a whole batch."""
    oracle, votes = family.oracle, family.votes
    doubled = Votes(votes.guess, votes.hits * 2, oracle.n * 2, votes.n0)
    return family.wrong(_plainly(doubled, oracle)) > 0


def _plainly(
    votes: Votes, oracle: Oracle, procedure: str = Holm.name, **asked: Any
) -> NDArray[np.bool_]:
    """What ``certify`` certifies; by default by Holm's procedure on held-out draws."""
    asked = {'selection': 'holdout', **asked}
    return certify(
        votes, tau=oracle.tau, alpha=oracle.alpha, procedure=procedure, **asked
    ).certified


def _settings(procedure: str, selection: str) -> CertifySettings:
    k = 5 if PROCEDURES[procedure].takes_k else None
    return CertifySettings(Oracle.tau, Oracle.alpha, procedure, selection, k, order='margin')


def methods() -> tuple[Method, ...]:
    """Every registered procedure with every selection, and invalid methods that must be seen."""
    every = [
        (f'{name}{" k=5" if rule.takes_k else ""}, {selection}', _settings(name, selection))
        for name, rule in PROCEDURES.items()
        for selection in SELECTION_CHOICES[::-1]
    ]
    found = [Method(name, _certified(settings)) for name, settings in every]
    found += [
        Method(f'{name}, in looks', _certified(settings, looks=True)) for name, settings in every
    ]
    found += [Method(f'joint radii, {name}', _joint(name)) for name in SELECTION_CHOICES[::-1]]
    found += [
        Method(f'groups, {name}', _certified(settings, groups=True)) for name, settings in every
    ]
    for name in (name for name, rule in PROCEDURES.items() if rule.takes_order):
        same_draws = _certified(_settings(name, 'same_draws'), looks=True, groups=True)
        by_votes = f'{name} by the selection votes'
        found += [
            Method(f'groups, {name}, same_draws, in looks', same_draws),
            Method(by_votes, _by_selection_votes(name)),
        ]
    found += [
        Method(f'pooled tests, {name}', _pooled(_settings(name, 'holdout')), oracles=PathOracle)
        for name in PROCEDURES
    ]
    near = _pooled(_settings(Holm.name, 'holdout'), spread=0.0)
    # Another procedure may do no harm with it.
    by_votes = f'{OrderedHolm.name} by the selection votes, same_draws'
    by_counted_votes = _by_selection_votes(OrderedHolm.name, 'same_draws')
    return (
        *found,
        Method(by_votes, by_counted_votes, valid=False),
        Method('peeking at unchanged alpha', _peeking, valid=False),
        Method('max-T bootstrap', _max_t, valid=False, share=0.1),
        Method('k-FWER with k alpha / (K - i + 1)', _invalid_kfwer, valid=False),
        Method('choosing and testing on the same draws, one tail', _one_tail, valid=False),
        Method('repeated draws', _repeated, valid=False),
        Method('pooling all draws as if of one cell', near, valid=False, oracles=PathOracle),
    )


def _rows(*probabilities: tuple[int, list[float]]) -> NDArray[np.float64]:
    """Probabilities of components, from pairs (number, probabilities of the classes)."""
    return np.array([p for count, p in probabilities for _ in range(count)])


_TWO, _SURE = [0.75, 0.25], [1.0, 0.0]
_MANY = [0.75, *[0.05] * 5]
_PAIR = [0.4, 0.35, 0.25, 0.0]

ORACLES: tuple[Oracle, ...] = (
    Oracle('two classes', _rows((20, _TWO))),
    Oracle('six classes', _rows((20, _MANY))),
    Oracle('one component', _rows((1, _TWO)), n=45),
    Oracle('one component, a tie', _rows((1, [0.5, 0.5])), tau=0.5, n0=4, n=36),
    Oracle('identical components', _rows((20, _TWO)), coupling='identical'),
    Oracle('errors that exclude each other', _rows((20, _TWO)), coupling='exclusive'),
    Oracle(
        'correlated, half sure', _rows((20, _SURE), (20, _TWO)), n0=45, n=193, coupling='correlated'
    ),
    Oracle('half sure, null first', _rows((10, _SURE), (10, _TWO))),
    Oracle('half sure, null last', _rows((10, _SURE), (10, _TWO)), order='null last'),
    Oracle('torn within a group', _rows((20, _PAIR))),
    Oracle(
        'one sure, the rest torn',
        _rows((1, [1.0, 0.0, 0.0, 0.0]), (39, _PAIR)),
        alpha=0.01,
        n0=10,
        n=18,
        order='null last',
    ),
    Oracle('ties', _rows((20, [0.5, 0.5])), tau=0.5, n0=8, n=40),
    Oracle('hardly more than a tie', _rows((10, [0.5, 0.5]), (10, [0.51, 0.49])), tau=0.5, n0=8),
    Oracle('as many draws to choose as to test', _rows((20, _TWO)), n0=10, n=12),
    Oracle('large tau, few draws', _rows((20, [0.9, 0.1])), tau=0.9, n=24, coupling='identical'),
    PathOracle(
        'a path, one worst place',
        _rows((1, [0.5, 0.5])),
        tau=0.5,
        n=160,
        places=np.array([2.03]),
        length=4.0,
        cells=20,
    ),
    PathOracle(
        'a path, worst places all along',
        _rows((20, [0.5, 0.5])),
        tau=0.5,
        n=160,
        places=np.linspace(0, 6, 20),
        length=6.0,
        cells=40,
    ),
    PathOracle(
        'a path, exclusive errors at its end',
        _rows((20, [0.5, 0.5])),
        tau=0.5,
        n=120,
        coupling='exclusive',
        places=np.zeros(20),
        length=3.0,
        cells=6,
    ),
)
"""Worst points of the null: true nulls have a class, or a group, of probability exactly tau."""


@dataclass
class Audit:
    """Runs every method on a number of families of every oracle.

    ``progress`` is called with the name of each oracle before its families are drawn.
    """

    families: int = 5_000
    seed: int = 0
    methods: tuple[Method, ...] = field(default_factory=methods)
    oracles: tuple[Oracle, ...] = ORACLES
    progress: Callable[[str], None] | None = None
    findings: list[Finding] = field(default_factory=list)

    def run(self) -> list[Finding]:
        """Audits every method with every oracle; one finding per pair."""
        for index, oracle in enumerate(self.oracles):
            if self.progress is not None:
                self.progress(oracle.name)
            self.findings += self._run_oracle(oracle, np.random.default_rng([self.seed, index]))
        return self.findings

    @property
    def pairs(self) -> int:
        """How many findings a whole audit has."""
        return sum(len(self._methods_of(oracle)) for oracle in self.oracles)

    def _methods_of(self, oracle: Oracle) -> list[Method]:
        return [method for method in self.methods if type(oracle) is method.oracles]

    def _run_oracle(self, oracle: Oracle, rng: np.random.Generator) -> Iterator[Finding]:
        methods = self._methods_of(oracle)
        failed = np.zeros(len(methods), dtype=np.int64)
        runs = np.array([max(1, round(self.families * method.share)) for method in methods])
        done = 0
        while done < self.families:
            size = min(CHUNK, self.families - done)
            for labels in oracle.draw(rng, size):
                family = Family(oracle, labels, _count(labels, oracle.n0))
                for index, method in enumerate(methods):
                    if done < runs[index]:
                        failed[index] += method.fails(family, rng)
                done += 1
        for method, count, total in zip(methods, failed.tolist(), runs.tolist(), strict=True):
            low, high = _interval(count, total)
            yield Finding(
                method.name, oracle.name, method.valid, total, count, oracle.alpha, low, high
            )

    def unexpected(self) -> list[str]:
        """The valid methods that violated their level, and the invalid ones that did not."""
        violated = {finding.method for finding in self.findings if finding.violates_level}
        return [m.name for m in self.methods if m.valid == (m.name in violated)]


def _interval(count: int, total: int) -> tuple[float, float]:
    """Clopper and Pearson's two-sided interval of a rate."""
    tail = (1 - CONFIDENCE) / 2
    low = special.betaincinv(count, total - count + 1, tail) if count else 0.0
    high = special.betaincinv(count + 1, total - count, 1 - tail) if count < total else 1.0
    return float(low), float(high)


def _count(labels: NDArray[np.integer], n0: int) -> Votes:
    """Votes from label maps (n0 + n, K); if n = 0, hits of the top class of all of them."""
    selection, estimation = labels[:n0], labels[n0:]
    counts = np.stack([(selection == c).sum(axis=0) for c in range(int(labels.max()) + 1)])
    guess, top = counts.argmax(axis=0), counts.max(axis=0)
    if len(estimation) == 0:
        return Votes(guess, top, n0, 0)
    return Votes(guess, (estimation == guess).sum(axis=0), len(estimation), n0, top)
