"""Coarser claims where the class cannot be certified: groups in a hierarchy of the classes.

A hierarchy has levels, finest first. Each level divides the classes into named groups, and every
group lies within one group of the next level. The selection votes fix a chain of groups for each
component: the most frequent group of each level, as long as it lies within the one above. A vote
for a class is a vote for its groups, so hits never fall along the chain. Each false claim about a
component therefore implies the false claim about its coarsest group of probability at most tau:
testing the whole chain costs no more than testing the class, with one cut-off for all levels.
Where the counted draws choose the chain as well ('same_draws'), the coarsest groups of probability
at most tau are disjoint, and ``binomial.same_draws_p_values`` bounds their sum. The proof is in
docs/theory/further-claims.md, "Hierarchies".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.votes import Votes


class Hierarchy:
    """Levels of groups over C classes.

    Examples:
        >>> from mmcert.certify import Hierarchy
        >>> levels = [{'vehicle': ['car', 'bus'], 'ground': ['road', 'sidewalk']}]
        >>> hierarchy = Hierarchy(levels, ['road', 'sidewalk', 'car', 'bus', 'sky'])
        >>> hierarchy.members(1)  # a class that no group names is a group of its own
        {'vehicle': ['car', 'bus'], 'ground': ['road', 'sidewalk'], 'sky': ['sky']}
        >>> hierarchy.groups[0].tolist()  # the group of each class
        [1, 1, 0, 0, 2]

    Args:
        levels (Sequence[Mapping]): For each level, finest first, a mapping from the names of its
            groups to the names of their classes. A class that no group names is a group of its own.
        classes (Sequence[str]): Names of the C classes, in the order of their labels.

    Raises:
        ValueError: If a name is unknown or named twice, a group is not within one of the next
            level, or a level is no coarser than the one before.
    """

    def __init__(
        self, levels: Sequence[Mapping[str, Sequence[str]]], classes: Sequence[str]
    ) -> None:
        self.classes = tuple(classes)
        self.names: list[tuple[str, ...]] = []
        self.groups: list[NDArray[np.int64]] = []
        if not levels:
            raise ValueError('a hierarchy needs at least one level')
        previous: NDArray[np.int64] = np.arange(len(self.classes))
        for number, level in enumerate(levels, start=1):
            names, groups = self._read(level, number)
            self.names.append(names)
            self.groups.append(groups)
            self._check_coarser(previous, groups, number)
            previous = groups

    @classmethod
    def from_config(cls, config: Any, classes: Sequence[str]) -> Hierarchy:
        """Builds a hierarchy from a config: a name in ``BUILT_IN``, or the levels themselves."""
        return cls(levels_of(config), classes)

    def _read(
        self, level: Mapping[str, Sequence[str]], number: int
    ) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        index = {name: position for position, name in enumerate(self.classes)}
        names = list(level)
        groups = np.full(len(self.classes), -1, dtype=np.int64)
        for group, members in enumerate(level.values()):
            listed = [members] if isinstance(members, str) else list(members)
            if not listed:
                raise ValueError(f'level {number} of the hierarchy has a group without classes')
            for member in listed:
                if member not in index:
                    raise ValueError(
                        f'level {number} of the hierarchy names the class {member!r}; the classes '
                        f'are {", ".join(self.classes)}'
                    )
                if groups[index[member]] >= 0:
                    raise ValueError(f'level {number} of the hierarchy names {member!r} twice')
                groups[index[member]] = group
        for position in np.flatnonzero(groups < 0):
            if self.classes[position] in names:
                raise ValueError(
                    f'level {number} of the hierarchy calls a group {self.classes[position]!r}, '
                    'which is a class outside that group'
                )
            groups[position] = len(names)
            names.append(self.classes[position])
        return tuple(names), groups

    def _check_coarser(
        self, finer: NDArray[np.int64], coarser: NDArray[np.int64], number: int
    ) -> None:
        for group in range(finer.max() + 1):
            above = np.unique(coarser[finer == group])
            if above.size > 1:
                torn = ', '.join(self.names[number - 1][index] for index in above)
                raise ValueError(
                    f'the levels of a hierarchy must be nested: level {number} divides a group of '
                    f'the level before among {torn}'
                )
        if len(np.unique(coarser)) >= len(np.unique(finer)):
            raise ValueError(f'level {number} of the hierarchy is no coarser than the one before')

    @property
    def num_levels(self) -> int:
        """Number of levels above the classes."""
        return len(self.groups)

    def information(self, level: int) -> NDArray[np.float64]:
        """Information in each group of a level, relative to that in the class.

        It is (log C - log size) / log C, in [0, 1]; level 0 holds the classes themselves.
        """
        if level == 0:
            return np.ones(len(self.classes))
        return 1 - np.log(np.bincount(self.groups[level - 1])) / math.log(len(self.classes))

    def nested(self, votes: Votes) -> list[NDArray[np.bool_]]:
        """Where each level belongs to a component's chain: one mask per level, classes first.

        The coarsest mask is True everywhere.

        Raises:
            ValueError: If the votes were not counted for these levels.
        """
        if len(votes.group_votes) != self.num_levels:
            raise ValueError(
                f'the hierarchy has {self.num_levels} levels, but the votes were counted for '
                f'{len(votes.group_votes)}: sample them with the same `hierarchy`'
            )
        for level, counted in enumerate(votes.group_votes):
            if counted.guess.size and counted.guess.max() >= len(self.names[level]):
                raise ValueError(
                    f'the votes name group {counted.guess.max()} of level {level + 1}, which has '
                    f'{len(self.names[level])}: they were counted for another hierarchy'
                )
        levels = [np.arange(len(self.classes)), *self.groups]
        guesses = [votes.guess, *(counted.guess for counted in votes.group_votes)]
        masks = [np.ones(votes.guess.shape, dtype=bool)]
        for level in range(self.num_levels - 1, -1, -1):
            parents = np.zeros(levels[level].max() + 1, dtype=np.int64)
            parents[levels[level]] = levels[level + 1]
            masks.insert(0, masks[0] & (parents[guesses[level]] == guesses[level + 1]))
        return masks

    def members(self, level: int) -> dict[str, list[str]]:
        """The classes of each group of a level, in the order of the groups' numbers."""
        groups = self.groups[level - 1]
        return {
            name: [self.classes[index] for index in np.flatnonzero(groups == group)]
            for group, name in enumerate(self.names[level - 1])
        }

    def spec(self) -> dict[str, Any]:
        """JSON values that no sorting of keys can alter, stored beside votes.

        ``classes`` are their names in order; ``levels`` has for each level a list of [name,
        classes], in the order of the groups' numbers.
        """
        levels = range(1, self.num_levels + 1)
        return {
            'classes': list(self.classes),
            'levels': [[[*item] for item in self.members(level).items()] for level in levels],
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Hierarchy:
        """Builds the hierarchy whose ``spec`` was kept, with the same numbers of groups."""
        return cls([dict(level) for level in spec['levels']], spec['classes'])


def levels_of(config: Any) -> Sequence[Mapping[str, Sequence[str]]]:
    """The levels that a config names, as one of ``BUILT_IN``, or lists.

    Raises:
        ValueError: If the name is not known, or it is no list of dicts.
    """
    if isinstance(config, str):
        if config not in BUILT_IN:
            raise ValueError(
                f'unknown hierarchy {config!r}; known: {", ".join(sorted(BUILT_IN))}, or give '
                'the levels, for example [dict(vehicle=["car", "bus"], ...)]'
            )
        return BUILT_IN[config]
    if not isinstance(config, Sequence) or not all(isinstance(level, Mapping) for level in config):
        raise ValueError(
            'a hierarchy is a list of levels, each a dict from names of groups to their classes, '
            f'got {config!r}'
        )
    return config


def _with_motion(categories: dict[str, list[str]]) -> list[dict[str, list[str]]]:
    """Categories, and a level above: what moves by itself, and what does not."""
    above: dict[str, list[str]] = {'static': [], 'dynamic': []}
    for name, classes in categories.items():
        above['dynamic' if name in ('human', 'vehicle') else 'static'] += classes
    return [categories, above]


BUILT_IN = {
    'cityscapes': _with_motion(
        {
            'flat': ['road', 'sidewalk'],
            'construction': ['building', 'wall', 'fence'],
            'object': ['pole', 'traffic light', 'traffic sign'],
            'nature': ['vegetation', 'terrain'],
            'sky': ['sky'],
            'human': ['person', 'rider'],
            'vehicle': ['car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'],
        }
    ),
    'camvid': _with_motion(
        {
            'flat': ['road', 'sidewalk'],
            'construction': ['building', 'fence'],
            'object': ['pole', 'sign'],
            'nature': ['tree'],
            'sky': ['sky'],
            'human': ['pedestrian', 'bicyclist'],
            'vehicle': ['car'],
        }
    ),
}
"""By name: the categories of Cityscapes (Cordts et al., CVPR 2016), and the same for CamVid."""
