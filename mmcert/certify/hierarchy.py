"""Coarser statements where the class cannot be certified: nodes of a hierarchy of the classes.

A hierarchy has levels, finest first; each divides the classes into named nodes, and every node lies
within one node of the next level. For each component a chain of nodes is fixed by the selection
votes: the most frequent node of each level, as long as it lies within the one above. The hits of
the chain rise with the level, since whoever votes for the class votes for its nodes. So for one
component all false statements are implied by the one about its coarsest node of probability at most
tau: testing the whole chain costs no more than testing the class, at one cut-off for all levels.
When the counted draws choose the chain as well ('same_draws'), the coarsest nodes of probability at
most tau are disjoint, and the bound of ``binomial.same_draws_table`` covers them. The proof is in
docs/proofs.md, "Hierarchies".

Built in are the categories of Cityscapes' label definitions (Cordts et al., CVPR 2016), and the
same for CamVid's classes, each with a level above that tells what moves by itself from what does
not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.votes import Votes


class Hierarchy:
    """Levels of nodes over C classes.

    Args:
        levels (Sequence[Mapping]): For each level, finest first, the names of its nodes and the
            names of the classes in each. A class that no node names is a node of its own.
        classes (Sequence[str]): Names of the C classes, in the order of their labels.

    Raises:
        ValueError: If a name is unknown or named twice, a node is not within one of the next level,
            or a level is no coarser than the one before.
    """

    def __init__(
        self, levels: Sequence[Mapping[str, Sequence[str]]], classes: Sequence[str]
    ) -> None:
        self.classes = tuple(classes)
        self.names: list[tuple[str, ...]] = []
        self.nodes: list[NDArray[np.int64]] = []
        for number, level in enumerate(levels, start=1):
            names, nodes = self._read(level, number)
            self.names.append(names)
            self.nodes.append(nodes)
        if not self.nodes:
            raise ValueError('a hierarchy needs at least one level')
        previous: NDArray[np.int64] = np.arange(len(self.classes))
        for number, nodes in enumerate(self.nodes, start=1):
            self._check_coarser(previous, nodes, number)
            previous = nodes

    @classmethod
    def from_config(cls, config: Any, classes: Sequence[str]) -> Hierarchy:
        """Builds a hierarchy from what a config says.

        Args:
            config (str | Sequence): 'cityscapes', 'camvid', or the levels themselves.
            classes (Sequence[str]): Names of the C classes.

        Returns:
            Hierarchy: Over these classes.

        Raises:
            ValueError: If the name is unknown or the levels do not fit the classes.
        """
        if isinstance(config, str):
            if config not in BUILT_IN:
                raise ValueError(
                    f'unknown hierarchy {config!r}; known: {", ".join(sorted(BUILT_IN))}, or give '
                    'the levels, for example [dict(vehicle=["car", "bus"], ...)]'
                )
            config = BUILT_IN[config]
        return cls(config, classes)

    def _read(
        self, level: Mapping[str, Sequence[str]], number: int
    ) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        index = {name: position for position, name in enumerate(self.classes)}
        names = list(level)
        nodes = np.full(len(self.classes), -1, dtype=np.int64)
        for node, members in enumerate(level.values()):
            listed = [members] if isinstance(members, str) else list(members)
            if not listed:
                raise ValueError(f'level {number} of the hierarchy has a node without classes')
            for member in listed:
                if member not in index:
                    raise ValueError(
                        f'level {number} of the hierarchy names the class {member!r}; the classes '
                        f'are {", ".join(self.classes)}'
                    )
                if nodes[index[member]] >= 0:
                    raise ValueError(f'level {number} of the hierarchy names {member!r} twice')
                nodes[index[member]] = node
        for position in np.flatnonzero(nodes < 0):
            if self.classes[position] in names:
                raise ValueError(
                    f'level {number} of the hierarchy calls a node {self.classes[position]!r}, '
                    'which is a class outside that node'
                )
            nodes[position] = len(names)
            names.append(self.classes[position])
        return tuple(names), nodes

    def _check_coarser(
        self, finer: NDArray[np.int64], coarser: NDArray[np.int64], number: int
    ) -> None:
        for node in range(finer.max() + 1):
            above = np.unique(coarser[finer == node])
            if above.size > 1:
                torn = ', '.join(self.names[number - 1][index] for index in above)
                raise ValueError(
                    f'the levels of a hierarchy must be nested: level {number} divides a node of '
                    f'the level before among {torn}'
                )
        if len(np.unique(coarser)) >= len(np.unique(finer)):
            raise ValueError(f'level {number} of the hierarchy is no coarser than the one before')

    @property
    def num_levels(self) -> int:
        """Number of coarse levels."""
        return len(self.nodes)

    def sizes(self, level: int) -> NDArray[np.int64]:
        """Number of classes in each node of a level; level 0 holds the classes themselves."""
        if level == 0:
            return np.ones(len(self.classes), dtype=np.int64)
        return np.bincount(self.nodes[level - 1])

    def information(self, level: int) -> NDArray[np.float64]:
        """Information in knowing a node, relative to knowing the class.

        Args:
            level (int): 0 for the classes, or a coarse level.

        Returns:
            np.ndarray: (log C - log size) / log C of each node, in [0, 1].
        """
        total = math.log(max(len(self.classes), 2))
        return 1 - np.log(self.sizes(level)) / total

    def check_votes(self, votes: Votes) -> None:
        """Checks that votes hold the counts of these levels.

        Raises:
            ValueError: If they do not.
        """
        if len(votes.coarse) != self.num_levels:
            raise ValueError(
                f'the hierarchy has {self.num_levels} levels, but the votes were counted for '
                f'{len(votes.coarse)}: sample them with the same `hierarchy`'
            )
        for level, part in enumerate(votes.coarse):
            if part.guess.size and part.guess.max() >= len(self.names[level]):
                raise ValueError(
                    f'the votes name node {part.guess.max()} of level {level + 1}, which has '
                    f'{len(self.names[level])}: they were counted for another hierarchy'
                )

    def nested(self, votes: Votes) -> list[NDArray[np.bool_]]:
        """Where each level belongs to a component's chain, the classes first.

        Args:
            votes (Votes): Votes with the counts of these levels.

        Returns:
            list[np.ndarray]: One mask per level, the classes' first, the shape of the votes. The
            coarsest is True everywhere.
        """
        guesses = [votes.guess, *(part.guess for part in votes.coarse)]
        masks = [np.ones(votes.guess.shape, dtype=bool)]
        for level in range(self.num_levels - 1, -1, -1):
            masks.insert(0, masks[0] & (self._parents(level)[guesses[level]] == guesses[level + 1]))
        return masks

    def _parents(self, level: int) -> NDArray[np.int64]:
        """The node of the next level that each node of a level lies in."""
        if level == 0:
            return self.nodes[0]
        parents = np.zeros(len(self.names[level - 1]), dtype=np.int64)
        parents[self.nodes[level - 1]] = self.nodes[level]
        return parents

    def members(self, level: int) -> dict[str, list[str]]:
        """The classes of each node of a coarse level, in the order of the nodes' numbers."""
        nodes = self.nodes[level - 1]
        return {
            name: [self.classes[index] for index in np.flatnonzero(nodes == node)]
            for node, name in enumerate(self.names[level - 1])
        }

    def spec(self) -> dict[str, Any]:
        """What votes are kept with, as JSON values that no sorting of keys can alter.

        Returns:
            dict: ``classes``, their names in order, and ``levels``, for each a list of [name,
            classes] in the order of the nodes' numbers.
        """
        levels = range(1, self.num_levels + 1)
        return {
            'classes': list(self.classes),
            'levels': [[[*item] for item in self.members(level).items()] for level in levels],
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Hierarchy:
        """Builds the hierarchy whose ``spec`` was kept, with the same numbers of nodes."""
        return cls([dict(level) for level in spec['levels']], spec['classes'])


_CITYSCAPES = {
    'flat': ['road', 'sidewalk'],
    'construction': ['building', 'wall', 'fence'],
    'object': ['pole', 'traffic light', 'traffic sign'],
    'nature': ['vegetation', 'terrain'],
    'sky': ['sky'],
    'human': ['person', 'rider'],
    'vehicle': ['car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'],
}
_CAMVID = {
    'flat': ['road', 'sidewalk'],
    'construction': ['building', 'fence'],
    'object': ['pole', 'sign'],
    'nature': ['tree'],
    'sky': ['sky'],
    'human': ['pedestrian', 'bicyclist'],
    'vehicle': ['car'],
}


def _grouped(
    level: Mapping[str, Sequence[str]], groups: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    return {
        name: [member for node in nodes for member in level[node]] for name, nodes in groups.items()
    }


_BY_MOTION = {
    'static': ['flat', 'construction', 'object', 'nature', 'sky'],
    'dynamic': ['human', 'vehicle'],
}
BUILT_IN = {
    'cityscapes': [_CITYSCAPES, _grouped(_CITYSCAPES, _BY_MOTION)],
    'camvid': [_CAMVID, _grouped(_CAMVID, _BY_MOTION)],
}
"""The hierarchies that configs can name."""
