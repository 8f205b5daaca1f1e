"""Corruptions of point clouds: those of PointCloud-C.

Ren, Pan, Liu, "Benchmarking and analyzing point cloud classification under corruptions", ICML
2022 (the data sets ModelNet-C and ShapeNet-C), in their parameters. There a cloud has 1024 points
in the unit ball about its centroid. Here lengths scale with the *radius* of the cloud, the largest
distance of a point from the centroid, and numbers of points with N / 1024. Points keep their order,
and added ones come last.

Only the coordinates change, in the first three columns. Added points have the other columns of a
point of the clean cloud.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mmcert.corruptions.base import Corrupted, Corruption
from mmcert.perturbations import Rotation3D

POINTS = 1024
"""Points of a cloud of the benchmark."""

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cloud:
    """Coordinates of a cloud, and their size.

    Attributes:
        points (np.ndarray): Shape (N, 3), float64.
    """

    points: Numbers

    @property
    def centroid(self) -> Numbers:
        """The mean of the points, shape (3,)."""
        return self.points.mean(axis=0)

    @property
    def radius(self) -> float:
        """The largest distance of a point from the centroid."""
        return float(np.linalg.norm(self.points - self.centroid, axis=1).max())

    def share(self, count: int) -> int:
        """As many points of this cloud as ``count`` are of the benchmark's clouds."""
        return round(count * len(self.points) / POINTS)


@dataclass(frozen=True, eq=False)
class Change:
    """What a corruption does to a cloud.

    Attributes:
        points (np.ndarray): The coordinates, shape (N', 3), float64.
        origin (np.ndarray): Which point of the clean cloud each one is, -1 for added ones, (N',).
        taken_from (np.ndarray): The point that other columns are taken from, (N',).
        rotation (np.ndarray | None): Axis-angle vector, if that is all there is; the ``points`` are
            then those of the clean cloud.
    """

    points: Numbers
    origin: Indices
    taken_from: Indices
    rotation: Numbers | None = None


def _moved(points: Numbers, rotation: Numbers | None = None) -> Change:
    every = np.arange(len(points))
    return Change(points, every, every, rotation)


def _left(cloud: Cloud, kept: Indices) -> Change:
    kept = np.sort(kept)
    return Change(cloud.points[kept], kept, kept)


def _with_added(cloud: Cloud, added: Numbers, taken_from: Indices) -> Change:
    every = np.arange(len(cloud.points))
    return Change(
        np.concatenate([cloud.points, added]),
        np.concatenate([every, np.full(len(added), -1)]),
        np.concatenate([every, taken_from]),
    )


def jitter(cloud: Cloud, severity: int, rng: np.random.Generator) -> Change:
    """Gaussian noise on every coordinate, of standard deviation 0.01 to 0.05 of the radius."""
    sigma = 0.01 * severity * cloud.radius
    return _moved(cloud.points + sigma * rng.standard_normal(cloud.points.shape))


def scale(cloud: Cloud, severity: int, rng: np.random.Generator) -> Change:
    """Each axis times a factor of its own, uniform in [1 / s, s], s = 1.6 to 2.

    About the centroid; the cloud is then scaled back to the radius that it had.
    """
    largest = 1.5 + 0.1 * severity
    centred = (cloud.points - cloud.centroid) * rng.uniform(1 / largest, largest, 3)
    radius = np.linalg.norm(centred, axis=1).max()
    return _moved(cloud.centroid + centred * (cloud.radius / radius if radius else 1.0))


def rotate(cloud: Cloud, severity: int, rng: np.random.Generator) -> Change:
    """Rotations about the x, y and z axes, each uniform within 6 to 30 degrees to either side.

    About the origin, in which the benchmark's clouds have their centroid.
    """
    angles = rng.uniform(-1, 1, 3) * severity * math.pi / 30
    # The benchmark multiplies rows by Rz Ry Rx, from the right.
    turn = Rotation.from_euler('xyz', angles).inv()
    return _moved(cloud.points, turn.as_rotvec())


def dropout_global(cloud: Cloud, severity: int, rng: np.random.Generator) -> Change:
    """Drops 25, 37.5, 50, 62.5 or 75 % of the points at random."""
    count = len(cloud.points)
    kept = max(int(count * (1 - (1 + severity) / 8)), 1)
    return _left(cloud, rng.permutation(count)[:kept])


def dropout_local(cloud: Cloud, severity: int, rng: np.random.Generator) -> Change:
    """Drops 100 to 500 of 1024 points, in one to seven clusters.

    Each cluster is a random point with its nearest neighbours.
    """
    kept = np.arange(len(cloud.points))
    for size in _cluster_sizes(min(cloud.share(100 * severity), len(kept) - 1), rng):
        centre = cloud.points[rng.choice(kept)]
        distance = np.linalg.norm(cloud.points[kept] - centre, axis=1)
        kept = kept[np.argsort(distance, kind='stable')[size:]]
    return _left(cloud, kept)


def add_global(cloud: Cloud, severity: int, rng: np.random.Generator) -> Change:
    """Adds 10 to 50 points to 1024, uniform in the ball about the centroid."""
    count = cloud.share(10 * severity)
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = cloud.radius * np.cbrt(rng.uniform(0, 1, (count, 1)))
    taken_from = rng.integers(len(cloud.points), size=count)
    return _with_added(cloud, cloud.centroid + length * direction, taken_from)


def add_local(cloud: Cloud, severity: int, rng: np.random.Generator) -> Change:
    """Adds 100 to 500 points to 1024, in one to seven clusters about random points.

    Each is Gaussian, its standard deviation 0.075 to 0.125 of the radius. Points outside of the
    ball about the centroid are mirrored at its surface.
    """
    sizes = _cluster_sizes(cloud.share(100 * severity), rng)
    centres = rng.permutation(len(cloud.points))[: len(sizes)]
    sizes = sizes[: len(centres)]
    spread = np.repeat(rng.uniform(0.075, 0.125, len(sizes)), sizes) * cloud.radius
    taken_from = np.repeat(centres, sizes)
    noise = spread[:, None] * rng.standard_normal((len(taken_from), 3))
    added = cloud.points[taken_from] + noise - cloud.centroid
    square = (added**2).sum(axis=1, keepdims=True) / max(cloud.radius, 1e-300) ** 2
    return _with_added(cloud, cloud.centroid + added / np.maximum(square, 1), taken_from)


def _cluster_sizes(count: int, rng: np.random.Generator) -> Indices:
    """Sizes of one to seven clusters, ``count`` in all."""
    clusters = int(rng.integers(1, 8))
    return np.bincount(rng.integers(clusters, size=count), minlength=clusters)


FUNCTIONS: dict[str, tuple[str, Callable[[Cloud, int, np.random.Generator], Change]]] = {
    'jitter': ('jitter', jitter),
    'scale': ('transformation', scale),
    'rotate': ('transformation', rotate),
    'dropout_global': ('drop', dropout_global),
    'dropout_local': ('drop', dropout_local),
    'add_global': ('add', add_global),
    'add_local': ('add', add_local),
}
"""Category and function of each corruption."""


@dataclass(frozen=True)
class CloudCorruption(Corruption):
    """A corruption of point clouds; see this module.

    Attributes:
        normals (bool): Whether columns 3 to 5 are normals, which turn with the points.
        least (int): Points that a model needs: where fewer are left, they are there repeatedly.
    """

    domain: ClassVar[str] = 'points'
    source: ClassVar[str] = 'Ren, Pan and Liu, ICML 2022'

    normals: bool = False
    least: int = 1

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is no cloud of two points or more with the columns that there must be."""
        columns = 6 if self.normals else 3
        cloud = inputs.ndim == 2 and len(inputs) > 1 and inputs.shape[1] >= columns
        if not cloud or not inputs.is_floating_point():
            raise ValueError(
                f'{self.name} takes clouds (N, D) of floating point numbers, N >= 2 and D >= '
                f'{columns}, got {inputs.dtype} of shape {tuple(inputs.shape)}'
            )

    def _apply(self, inputs: torch.Tensor, severity: int, seed: int) -> Corrupted:
        cloud = Cloud(inputs[:, :3].double().cpu().numpy())
        change = FUNCTIONS[self.name][1](cloud, severity, np.random.default_rng(seed))
        if change.rotation is not None:
            return self._rotated(inputs, torch.from_numpy(change.rotation))
        taken_from = torch.from_numpy(change.taken_from).to(inputs.device)
        corrupted = inputs[taken_from].clone()
        corrupted[:, :3] = torch.from_numpy(change.points).to(inputs)
        origin = torch.from_numpy(change.origin)
        if (lacking := self.least - len(corrupted)) > 0:
            again = torch.arange(lacking) % len(corrupted)
            corrupted = torch.cat([corrupted, corrupted[again.to(inputs.device)]])
            origin = torch.cat([origin, torch.full((lacking,), -1)])
        return Corrupted(corrupted, origin.to(inputs.device))

    def _rotated(self, inputs: torch.Tensor, rotation: torch.Tensor) -> Corrupted:
        # As the certificates of rotations compute it, so that it is the attack they speak of.
        columns = 6 if self.normals else 3
        turned = Rotation3D(1.0, self.normals).transform(inputs[:, :columns], rotation)
        corrupted = torch.cat([turned, inputs[:, columns:]], dim=1)
        return Corrupted(corrupted, torch.arange(len(inputs), device=inputs.device), rotation)
