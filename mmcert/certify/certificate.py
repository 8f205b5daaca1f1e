"""From votes to a certificate."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.binomial import p_value_table
from mmcert.certify.checks import check_order
from mmcert.certify.hierarchy import Hierarchy
from mmcert.certify.procedures import Family
from mmcert.certify.selection import settle_votes
from mmcert.certify.sequential import spend
from mmcert.certify.settings import PROCEDURE, SELECTION, CertifySettings
from mmcert.certify.votes import Votes

ABSTAIN_LABEL = 254
"""Stands for "abstain" in label maps; prefer the mask ``Certificate.certified``."""


class ComponentOrder(NamedTuple):
    """A permutation of the components, shape (K,), most promising first; None: as in memory."""

    permutation: NDArray[np.integer] | None
    source: str


IN_MEMORY = ComponentOrder(None, 'of the components in memory')


@dataclass(frozen=True, eq=False)
class Certificate:
    """Which components of one input are certified, and under what settings.

    The theorem. Let p_i be the probability, over the perturbation, that the base model gives
    component i its guess class. With probability at least 1 - alpha over the draws that made the
    votes, p_i > tau holds for *all* certified components together (with a procedure that takes k:
    for all but fewer than k of them). Under the perturbation that the votes were sampled with, p_i
    > tau keeps the smoothed model's class of component i unchanged for every attack up to
    ``perturbation.radius(tau)``. Votes of a pooled test (``Votes.table``) say more directly that
    the guess keeps a probability above 1/2 at every point of the attack set.

    With a hierarchy, the same 1 - alpha covers the coarser claims as well: where ``level`` is l >
    0, the base model's class lies in the group ``groups[l - 1]`` with probability more than tau.

    Assumptions: the draws are independent, and each is used once. Under 'holdout', no draw of the
    guess is counted as a hit. Nobody chose tau, alpha, the procedure, the selection, the order or
    the hierarchy by looking at the hits, or the input by looking at the seed. Arithmetic is exact.
    Of several certificates of the same votes, each holds by itself; one that is chosen among them
    for its result does not. Without looks, the number of draws was fixed beforehand: sampling more
    because the result was not good enough is not covered. With looks, their sizes were fixed, and
    only whether to take the next one could depend on the votes.

    An exact certificate, from ``certify_enumerated``, is another theorem: see there.

    Not promised: that the certified model does not abstain under attack (p_i is then only known
    to exceed 1/2), that the class is right, or anything for several inputs together.

    Attributes:
        certified (np.ndarray): True where the component is certified, bool, the shape of the votes.
        guess (np.ndarray): The class that is certified there, same shape.
        settings (CertifySettings | None): What was asked; None where nothing was tested, as in an
            exact certificate.
        k (int): Fewer than k certificates may be wrong; 1 if none may.
        n (int): Number of estimation draws, beside n0 selection draws; of an exact certificate the
            number of parameters that were tried.
        selection (str | None): 'holdout' or 'same_draws': what was counted, where there were tests.
        tested_tau (float | None): The threshold of the tests, tau or more (see
            ``binomial.balanced_tau``).
        looks (tuple[int, ...]): The looks of a group-sequential run; empty if n was fixed.
        order (str | None): What ordered the components, for procedures that take an order.
        level (np.ndarray | None): With a hierarchy, 0 where the class is certified, l where the
            group of level l is, and the number of levels + 1 where nothing is; uint8.
        groups (tuple[np.ndarray, ...]): With a hierarchy, the groups of each of its levels.

    Examples:
        >>> import numpy as np
        >>> from mmcert.certify import Votes, certify
        >>> votes = Votes(guess=np.array([3, 7]), hits=np.array([100, 80]), n=100, n0=10)
        >>> certificate = certify(votes, tau=0.75, alpha=0.001)
        >>> certificate.certified.tolist(), certificate.label_map().tolist()
        ([True, False], [3, 254])
        >>> certificate.to_dict()['promise']
        'no certificate of this input is wrong'
    """

    certified: NDArray[np.bool_]
    guess: NDArray[np.integer]
    settings: CertifySettings | None
    k: int
    n: int
    n0: int
    selection: str | None
    tested_tau: float | None
    looks: tuple[int, ...] = ()
    order: str | None = None
    level: NDArray[np.uint8] | None = None
    groups: tuple[NDArray[np.integer], ...] = ()

    def label_map(self, abstain: int = ABSTAIN_LABEL) -> NDArray[np.integer]:
        """The certified classes, and ``abstain`` elsewhere, in a type that holds both.

        Raises:
            ValueError: If ``abstain`` does not lie above every guess class.
        """
        if self.guess.size and abstain <= self.guess.max():
            raise ValueError(
                f'the abstain value {abstain} must lie above every class, but the largest guess '
                f'class is {self.guess.max()}: use the mask `certified` instead'
            )
        dtype = np.promote_types(self.guess.dtype, np.min_scalar_type(abstain))
        return np.where(self.certified, self.guess.astype(dtype), dtype.type(abstain))

    def to_dict(self) -> dict[str, Any]:
        """Promise, settings (with the selection that was used) and counts, as JSON values."""
        settings = self.settings
        if settings is None:
            return {
                'kind': 'exact',
                'promise': 'no certificate of this input is wrong',
                'confidence': 1.0,
                'k': self.k,
                'num_values': self.n,
                **self._counts(),
            }
        values: dict[str, Any] = {
            'kind': 'count certificate' if self.k > 1 else 'certificate',
            'promise': settings.rule.describe(self.k),
            'tau': settings.tau,
            'alpha': settings.alpha,
            'confidence': 1 - settings.alpha,
            'family': 'all components of this input',
            'procedure': settings.procedure,
            'selection': self.selection,
            'k': self.k,
            'n0': self.n0,
            'n': self.n,
            **self._counts(),
        }
        if self.tested_tau != settings.tau:
            values['tested_tau'] = self.tested_tau
        if self.order is not None:
            values['order'] = self.order
        if self.looks:
            values['looks'] = list(self.looks)
            values['alpha_spending'] = 'alpha / (l (l + 1)) at look l = 1, 2, ...'
        if self.level is not None:
            counts = np.bincount(self.level.ravel(), minlength=len(self.groups) + 2)
            values['certified_by_level'] = counts[:-1].tolist()
        return values

    def _counts(self) -> dict[str, int]:
        return {
            'components': int(self.guess.size),
            'certified': int(np.count_nonzero(self.certified)),
        }


def certify(
    votes: Votes,
    *,
    tau: float,
    alpha: float,
    procedure: str = PROCEDURE,
    selection: str = SELECTION,
    k: int | float | None = None,
    order: ArrayLike | None = None,
    hierarchy: Hierarchy | None = None,
) -> Certificate:
    """Certifies as many components as the votes allow.

    Tests H0_i: p_i <= tau for every component with exact binomial p-values, and rejects by the
    named procedure, which bounds the error probability by alpha (SegCertify: Fischer, Baader,
    Vechev, ICML 2021). Votes with looks are tested group-sequentially (see ``sequential``).

    Args:
        votes (Votes): Votes of one input.
        tau (float): Probability threshold in [0.5, 1).
        alpha (float): Bound of the error probability, in (0, 1).
        procedure (str): Name of the procedure, see ``mmcert.certify.procedures``.
        k (int | float | None): See ``CertifySettings``.
        selection (str): See ``CertifySettings``. With an ``order`` that the procedure uses, 'auto'
            is 'holdout' if there are selection draws: the order may come from them.
        order (np.ndarray | None): A permutation of the K components, most promising first; by
            default their order in memory. It must not depend on any counted draw. With 'same_draws'
            the selection draws are counted too: an order by their votes voids the certificate.
            Procedures that take no order ignore it.
        hierarchy (Hierarchy | None): Groups to fall back on; the votes
            need the counts of its levels.

    Returns:
        Certificate: The certified components and the settings; see there for the theorem.

    Raises:
        ValueError: If a value is out of range, the procedure is unknown, ``order`` is not a
            permutation, or the votes lack what the settings need.

    Examples:
        >>> import numpy as np
        >>> from mmcert.certify import Votes, certify
        >>> votes = Votes(guess=np.zeros((1, 3), dtype=int), hits=np.array([[100, 93, 60]]),
        ...               n=100, n0=10)
        >>> certify(votes, tau=0.75, alpha=0.001).certified
        array([[ True,  True, False]])
        >>> certify(votes, tau=0.9, alpha=0.001).certified
        array([[ True, False, False]])
    """
    settings = CertifySettings(tau, alpha, procedure, selection, k)
    chosen = IN_MEMORY
    if order is not None:
        chosen = ComponentOrder(check_order(order, votes.num_components), 'given')
        if settings.rule.takes_order and selection == 'auto' and votes.n0 > 0:
            settings = replace(settings, selection='holdout')
    return _certify(votes, settings, chosen, hierarchy)


def certify_enumerated(votes: Votes) -> Certificate:
    """Certifies where the base model keeps its class at every parameter of a finite set.

    The theorem. Let f be the base model, a deterministic function, and T_xi x the input x as a
    transformation with the parameter xi makes it. For each certified component, f(T_xi x) has the
    class of f(x) at all of the n parameters of the votes. There is no error probability: f was run
    at each of them, and a component is certified if and only if it is so. Nothing follows for any
    other parameter.

    Args:
        votes (Votes): Votes of an enumeration of one input, from
            ``mmcert.sampling.collect_enumerated``.

    Returns:
        Certificate: Of kind 'exact'.

    Raises:
        ValueError: If the votes are of random draws: unanimous draws prove nothing by themselves.

    Examples:
        >>> import numpy as np
        >>> from mmcert.certify import Votes, certify_enumerated
        >>> votes = Votes(np.array([3, 7]), hits=np.array([4, 3]), n=4, n0=0, enumerated=True)
        >>> certificate = certify_enumerated(votes)
        >>> certificate.label_map().tolist(), certificate.to_dict()['kind']
        ([3, 254], 'exact')
    """
    if not votes.enumerated:
        raise ValueError(
            'these votes are of random draws, which prove nothing without a test: give settings, '
            'with tau and alpha'
        )
    return Certificate(
        certified=votes.hits == votes.n,
        guess=votes.guess,
        settings=None,
        k=1,
        n=votes.n,
        n0=0,
        selection=None,
        tested_tau=None,
    )


def certify_votes(
    votes: Votes,
    settings: CertifySettings | None,
    hierarchy: Hierarchy | None = None,
    *,
    margin: NDArray[np.integer] | None = None,
    order: ComponentOrder | None = None,
) -> Certificate:
    """Certifies votes, in the order that the settings ask for; those of an enumeration exactly.

    Args:
        votes (Votes): Votes of one input.
        settings (CertifySettings | None): Threshold, alpha, procedure, selection and order; None
            for votes of an enumeration.
        hierarchy (Hierarchy | None): See ``certify``.
        margin (np.ndarray | None): How clear the base model's prediction on the clean input is,
            integers in [0, 255], the shape of the votes: an order that depends on no draw.
        order (ComponentOrder | None): ``component_order`` of the same arguments, if it is known
            already. For an order of your own, use ``certify``.

    Raises:
        ValueError: If the votes lack what the settings need.
    """
    if settings is None:
        return certify_enumerated(votes)
    if order is None and settings.rule.takes_order:
        order = component_order(votes, settings, margin)
    return _certify(votes, settings, order or IN_MEMORY, hierarchy)


def component_order(
    votes: Votes, settings: CertifySettings, margin: NDArray[np.integer] | None
) -> ComponentOrder:
    """The order in which the settings want the components tested; see ``certify_votes``.

    Raises:
        ValueError: If the votes lack what the order needs.
    """
    hits = None
    # The selection votes may order the components where they are not counted.
    if settings.order != 'margin' and settle_votes(votes, settings).selection == 'holdout':
        hits = votes.selection_hits
    if hits is None and (margin is None or settings.order == 'selection'):
        if settings.order == 'auto':
            return IN_MEMORY
        missing = {'selection': 'selection hits', 'margin': 'margin of the clean input'}
        raise ValueError(
            f'order={settings.order!r} needs the {missing[settings.order]}, which these votes lack'
        )
    if hits is None:
        assert margin is not None
        rank, source = margin.astype(np.uint8), 'by the margin of the clean input'
    else:
        rank, source = hits.astype(np.min_scalar_type(votes.n0)), 'by the selection votes'
        if margin is not None:
            rank = np.multiply(rank, 256, dtype=np.min_scalar_type(votes.n0 * 256 + 255)) + margin
            source += ', ties by the margin of the clean input'
    # Stable and descending; a radix sort up to 16 bits.
    descending = np.argsort(rank.max(initial=0) - rank.ravel(), kind='stable')
    return ComponentOrder(descending.astype(np.int32), source)


def _certify(
    votes: Votes, settings: CertifySettings, order: ComponentOrder, hierarchy: Hierarchy | None
) -> Certificate:
    counting = settle_votes(votes, settings)
    components, k = votes.num_components, settings.k_for(votes.num_components)
    group_votes = () if hierarchy is None else votes.group_votes
    tested = [None] if hierarchy is None else hierarchy.nested(votes)
    permutation = order.permutation if settings.rule.takes_order else None
    by_class, *by_group = (
        _counts(counted, counting.selection, mask)
        for counted, mask in zip((votes, *group_votes), tested, strict=True)
    )
    certified = np.zeros((1 + len(by_group), components), dtype=bool)  # classes, then groups
    pending = None
    for look, (hits, n) in enumerate(by_class):
        table = votes.table
        if table is None:
            table = p_value_table(n, counting.tau, counting.selection, components)
        alpha = spend(settings.alpha, look + 1) if votes.looks else settings.alpha
        found = settings.rule.run(Family(hits, table, alpha, k, permutation, pending))
        certified[0] |= found.mask
        pending = ~certified[0]
        for mask, counts in zip(certified[1:], by_group, strict=True):
            mask |= counts[look][0] >= found.cutoff
    level = None
    if hierarchy is not None:
        level = np.where(certified.any(axis=0), certified.argmax(axis=0), len(certified))
        level = level.astype(np.uint8).reshape(votes.guess.shape)
    return Certificate(
        certified=certified[0].reshape(votes.guess.shape),
        guess=votes.guess,
        settings=settings,
        k=k,
        n=votes.n,
        n0=votes.n0,
        selection=counting.selection,
        tested_tau=counting.tau,
        looks=votes.looks,
        order=order.source if settings.rule.takes_order else None,
        level=level,
        groups=tuple(level_votes.guess for level_votes in group_votes),
    )


def _counts(
    votes: Votes, selection: str, tested: NDArray[np.bool_] | None
) -> list[tuple[NDArray[np.integer], int]]:
    """The counts at each look, shape (K,), with 0 where nothing is to be tested."""
    return [
        (hits.ravel() if tested is None else np.where(tested, hits, 0).ravel(), n)
        for hits, n in votes.stages(selection)
    ]
