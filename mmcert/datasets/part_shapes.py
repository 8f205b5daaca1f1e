"""Objects put together from primitives, with labelled parts: a data set without a download.

Synthetic: results on it show that the method works, and say nothing about real objects. The files
have the layout of ShapeNetPart with normals and are read as such.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log
from numpy.typing import ArrayLike, NDArray

from mmcert.datasets.shapenet_part import CATEGORIES, CATEGORY_PARTS, ShapeNetPartDataset
from mmcert.files import atomic_folder
from mmcert.registry import DATASETS

Array = NDArray[np.float64]

SPLITS = {'train': 0, 'val': 1, 'test': 2}
"""The splits, and their number in the shapes' seeds."""

NOTE = (
    'Synthetic shapes put together from primitives by mmcert.PartShapesDataset, in the file layout '
    'of ShapeNetPart. They are not ShapeNet data: results on them say nothing about real objects.\n'
)


class Surface(NamedTuple):
    """A surface that can be sampled.

    ``sample(n, rng)`` draws n points, uniformly by area, and returns them with the unit normals
    that point outwards, both of shape (n, 3).
    """

    area: float
    sample: Callable[[int, np.random.Generator], tuple[Array, Array]]


def turn(axis: int, degrees: float) -> Array:
    """Rotation matrix about a coordinate axis (0, 1, 2), shape (3, 3)."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _placed(surface: Surface, centre: ArrayLike, rotation: Array | None) -> Surface:
    """The surface rotated about the origin, then moved to ``centre``."""
    matrix = np.eye(3) if rotation is None else rotation

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        points, normals = surface.sample(n, rng)
        return points @ matrix.T + np.asarray(centre), normals @ matrix.T

    return Surface(surface.area, sample)


def box(
    size: Sequence[float], centre: ArrayLike = (0, 0, 0), rotation: Array | None = None
) -> Surface:
    """A box with edges ``size`` along x, y, z."""
    edges = np.asarray(size, dtype=float)
    faces = edges.prod() / edges

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        rows, axis = np.arange(n), rng.choice(3, size=n, p=faces / faces.sum())
        sign = rng.choice([-1.0, 1.0], size=n)
        points = rng.uniform(-0.5, 0.5, (n, 3)) * edges
        normals = np.zeros((n, 3))
        normals[rows, axis] = sign
        points[rows, axis] = sign * edges[axis] / 2
        return points, normals

    return _placed(Surface(float(2 * faces.sum()), sample), centre, rotation)


def tube(
    start: ArrayLike,
    end: ArrayLike,
    radius: float,
    end_radius: float | None = None,
    caps: bool = True,
) -> Surface:
    """A cylinder, cone or frustum between two points, with the discs at its ends or without."""
    origin, axis = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    length = float(np.linalg.norm(axis - origin))
    axis = (axis - origin) / length
    last = radius if end_radius is None else end_radius
    slope = last - radius
    slant = math.hypot(length, slope)
    areas = math.pi * np.array(
        [(radius + last) * slant, radius**2 if caps else 0, last**2 if caps else 0]
    )
    sideways = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    sideways /= np.linalg.norm(sideways)
    across = np.cross(axis, sideways)

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        kind = rng.choice(3, size=n, p=areas / areas.sum())
        angle = rng.uniform(0, 2 * math.pi, n)
        radial = np.cos(angle)[:, None] * sideways + np.sin(angle)[:, None] * across
        # Along the side the area grows with the radius, so its square is uniform.
        u = rng.random(n)
        ring = np.sqrt(radius**2 + u * (last**2 - radius**2))
        along = (ring - radius) / slope if abs(slope) > 1e-9 else u
        disc = np.sqrt(u) * np.where(kind == 1, radius, last)
        distance = np.where(kind == 0, ring, disc)
        height = np.select([kind == 0, kind == 1], [along, 0.0], 1.0) * length
        points = origin + height[:, None] * axis + distance[:, None] * radial
        side = (length * radial - slope * axis) / slant
        cap = np.where(kind == 1, -1.0, 1.0)[:, None] * axis
        return points, np.where((kind == 0)[:, None], side, cap)

    return Surface(float(areas.sum()), sample)


def ellipsoid(
    radii: Sequence[float],
    centre: ArrayLike = (0, 0, 0),
    rotation: Array | None = None,
    upper: bool = False,
) -> Surface:
    """An ellipsoid with half axes ``radii``, or the half of it with y > 0, open below."""
    axes = np.asarray(radii, dtype=float)

    def stretch(drawn: Array) -> Array:
        """How much the map from the unit sphere enlarges areas, up to a constant."""
        return np.linalg.norm(drawn / axes, axis=1)

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        kept = np.zeros((0, 3))
        while len(kept) < n:
            drawn = rng.standard_normal((2 * n + 8, 3))
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
            if upper:
                drawn[:, 1] = np.abs(drawn[:, 1])
            accepted = rng.random(len(drawn)) * (1 / axes.min()) < stretch(drawn)
            kept = np.concatenate([kept, drawn[accepted]])
        kept = kept[:n]
        normals = kept / axes
        return kept * axes, normals / np.linalg.norm(normals, axis=1, keepdims=True)

    # The mean over a Fibonacci lattice on the sphere.
    height = (np.arange(4096) + 0.5) / 2048 - 1
    turns = np.arange(4096) * math.pi * (3 - math.sqrt(5))
    flat = np.sqrt(1 - height**2)
    lattice = np.stack([flat * np.cos(turns), height, flat * np.sin(turns)], axis=1)
    area = 4 * math.pi * axes.prod() * stretch(lattice).mean() * (0.5 if upper else 1)
    return _placed(Surface(float(area), sample), centre, rotation)


def arc(
    ring_radius: float,
    radius: float,
    start: float,
    stop: float,
    centre: ArrayLike = (0, 0, 0),
    rotation: Array | None = None,
) -> Surface:
    """A bent tube, part of a torus about the z axis, between two angles in degrees."""
    first, span = math.radians(start), math.radians(stop - start)

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        around = np.zeros(0)
        while len(around) < n:
            drawn = rng.uniform(0, 2 * math.pi, 3 * n + 8)
            height = rng.random(len(drawn)) * (ring_radius + radius)
            around = np.concatenate([around, drawn[height < ring_radius + radius * np.cos(drawn)]])
        around = around[:n, None]
        along = first + span * rng.random((n, 1))
        outwards = np.concatenate([np.cos(along), np.sin(along), np.zeros((n, 1))], axis=1)
        normals = np.cos(around) * outwards + np.sin(around) * np.array([0, 0, 1])
        return ring_radius * outwards + radius * normals, normals

    return _placed(Surface(2 * math.pi * radius * ring_radius * span, sample), centre, rotation)


Parts = Iterator[tuple[int, Surface]]
"""Surfaces with the rank of their part within the category."""


def _airplane(rng: np.random.Generator) -> Parts:
    body, wing, tail, engine = range(4)
    radius, length = rng.uniform(0.07, 0.12), rng.uniform(0.8, 1.1)
    front, back = length * 0.35, -length * 0.3
    span, chord = rng.uniform(0.7, 1.1), rng.uniform(0.16, 0.26)
    sweep = rng.uniform(0, 35)
    engines: list[float] = [[], [0.45], [0.3, 0.6]][rng.integers(3)]
    yield body, tube((back, 0, 0), (front, 0, 0), radius, caps=False)
    yield body, ellipsoid((0.15, radius, radius), (front, 0, 0))
    yield body, tube((back, 0, 0), (back - 0.25, 0.03, 0), radius, 0.02)
    for side in (-1, 1):
        rotation = turn(1, side * sweep)
        middle = (-0.25 * sweep / 90, 0, side * (radius + span / 4))
        yield wing, box((chord, 0.02, span / 2), middle, rotation)
        yield tail, box((0.12, 0.015, 0.24), (back - 0.2, 0.03, side * 0.13), rotation)
        for place in engines:
            x, z = 0.05 - 0.2 * sweep / 90, side * (radius + place * span / 2)
            yield engine, tube((x, -0.06, z), (x + 0.16, -0.06, z), 0.035)
    height = rng.uniform(0.15, 0.25)
    yield tail, box((0.12, height, 0.015), (back - 0.18, 0.03 + height / 2, 0))


def _bag(rng: np.random.Generator) -> Parts:
    handle, body = range(2)
    width, height, depth = rng.uniform((0.6, 0.4, 0.2), (1.0, 0.7, 0.4))
    ring = width * rng.uniform(0.2, 0.35)
    yield body, box((width, height, depth))
    for z in (-depth / 2, depth / 2) if rng.random() < 0.5 else (0,):
        yield handle, arc(ring, rng.uniform(0.02, 0.04), 0, 180, (0, height / 2, z))


def _cap(rng: np.random.Generator) -> Parts:
    panels, peak = range(2)
    radii = rng.uniform((0.45, 0.3, 0.4), (0.6, 0.5, 0.5)).tolist()
    reach = rng.uniform(0.3, 0.5)
    tilt = turn(2, -rng.uniform(0, 20))
    yield panels, ellipsoid(radii, upper=True)
    yield peak, box((reach, 0.02, radii[2] * 1.2), (radii[0] + reach / 2, -0.03, 0), tilt)


def _car(rng: np.random.Generator) -> Parts:
    roof, hood, wheel, body = range(4)
    length, height, width = rng.uniform((1.0, 0.16, 0.38), (1.3, 0.24, 0.5))
    cabin, rise = length * rng.uniform(0.35, 0.5), rng.uniform(0.15, 0.22)
    shift = -length * rng.uniform(0.02, 0.1)
    bonnet = length / 2 - (shift + cabin / 2)
    radius = rng.uniform(0.09, 0.13)
    yield body, box((length, height, width))
    yield body, box((cabin, rise, width * 0.9), (shift, (height + rise) / 2, 0))
    yield roof, box((cabin * 0.95, 0.03, width * 0.88), (shift, height / 2 + rise + 0.015, 0))
    yield hood, box((bonnet, 0.03, width * 0.95), ((length - bonnet) / 2, height / 2 + 0.015, 0))
    for x, side in product((-0.32 * length, 0.32 * length), (-1, 1)):
        inner = (x, -height / 2, side * width * 0.42)
        yield wheel, tube(inner, np.add(inner, (0, 0, side * 0.1)), radius)


def _chair(rng: np.random.Generator) -> Parts:
    back, seat, leg, arm = range(4)
    width, depth, rise = rng.uniform((0.45, 0.42, 0.4), (0.6, 0.55, 0.65))
    low = rng.uniform(0.38, 0.5)
    lean = turn(2, rng.uniform(0, 12))
    behind, middle = -depth / 2, 0.03 + rise / 2
    yield seat, box((depth, 0.06, width))
    if rng.random() < 0.6:
        yield back, box((0.05, rise, width), (behind, middle, 0), lean)
    else:
        for z in np.linspace(-width / 2, width / 2, rng.integers(3, 6)):
            yield back, box((0.035, rise, 0.05), (behind, middle, 0.92 * z), lean)
        yield back, box((0.04, 0.1, width), (behind - rise * lean[1, 0], rise, 0), lean)
    if rng.random() < 0.75:
        thick = rng.uniform(0.02, 0.035)
        for x, z in product((-0.42 * depth, 0.42 * depth), (-0.42 * width, 0.42 * width)):
            yield leg, tube((x, -0.03, z), (x * 1.1, -low, z * 1.1), thick)
    else:
        yield leg, tube((0, -0.03, 0), (0, -low, 0), 0.04)
        yield leg, tube((0, -low, 0), (0, -low - 0.04, 0), 0.2, 0.24)
    if rng.random() < 0.5:
        height = rng.uniform(0.18, 0.26)
        for z in (-width / 2, width / 2):
            yield arm, box((depth * 0.85, 0.04, 0.05), (0, height, z))
            yield arm, box((0.04, height - 0.05, 0.04), (depth * 0.35, height / 2, z))


def _earphone(rng: np.random.Generator) -> Parts:
    earpiece, headband, wire = range(3)
    ring, radius = rng.uniform(0.4, 0.55), rng.uniform(0.16, 0.24)
    thick = rng.uniform(0.1, 0.2)
    yield headband, arc(ring, rng.uniform(0.025, 0.05), 0, 180)
    for side in (-1, 1):
        inner = (side * (ring - thick / 2), -radius * 0.7, 0)
        yield earpiece, tube(inner, np.add(inner, (side * thick, 0, 0)), radius)
    if rng.random() < 0.6:
        top, drop = -radius * 1.7, rng.uniform(0.4, 0.8)
        yield wire, tube((-ring, top, 0), (0.1 - ring, top - drop, 0), 0.018)


def _guitar(rng: np.random.Generator) -> Parts:
    head, neck, body = range(3)
    length, wide = rng.uniform(0.6, 0.8), rng.uniform(0.045, 0.07)
    deep = rng.uniform(0.04, 0.09)
    lower, upper = rng.uniform(0.26, 0.34), rng.uniform(0.18, 0.25)
    top = 0.2 + length
    yield body, tube((0, 0, -deep / 2), (0, 0, deep / 2), lower)
    yield body, tube((0, lower * 1.05, -deep / 2), (0, lower * 1.05, deep / 2), upper)
    yield neck, box((wide, length, 0.04), (0, 0.2 + length / 2, deep / 2 + 0.02))
    tilt = turn(0, -rng.uniform(0, 15))
    yield head, box((wide * 2.2, 0.18, 0.035), (0, top + 0.09, deep / 2), tilt)


def _knife(rng: np.random.Generator) -> Parts:
    blade, handle = range(2)
    length, wide = rng.uniform(0.45, 0.8), rng.uniform(0.08, 0.16)
    grip, thick = rng.uniform(0.3, 0.45), rng.uniform(0.03, 0.05)
    point = wide * 1.2
    yield blade, box((length, wide, 0.012), (length / 2, 0, 0))
    yield blade, box((point, wide * 0.5, 0.012), (length + point / 2, wide * 0.25, 0))
    if rng.random() < 0.5:
        yield handle, tube((-grip, 0, 0), (0, 0, 0), thick * 1.2, thick)
    else:
        yield handle, box((grip, wide * 0.8, thick * 1.2), (-grip / 2, 0, 0))


def _lamp(rng: np.random.Generator) -> Parts:
    base, shade, canopy, post = range(4)
    tall, top = rng.uniform(0.6, 1.1), rng.uniform(0.08, 0.2)
    wide, deep = rng.uniform(0.24, 0.36), rng.uniform(0.22, 0.35)
    if rng.random() < 0.35:  # hangs from the ceiling
        yield canopy, tube((0, tall, 0), (0, tall + 0.05, 0), rng.uniform(0.1, 0.16))
        yield post, tube((0, 0, 0), (0, tall, 0), 0.02)
        yield shade, tube((0, -deep, 0), (0, 0, 0), wide, top, caps=False)
        return
    foot = rng.uniform(0.16, 0.28)
    yield base, tube((0, 0, 0), (0, rng.uniform(0.03, 0.08), 0), foot, foot * 0.9)
    yield post, tube((0, 0.05, 0), (0, tall, 0), rng.uniform(0.015, 0.035))
    yield shade, tube((0, tall - 0.05, 0), (0, tall - 0.05 + deep, 0), wide, top, caps=False)


def _laptop(rng: np.random.Generator) -> Parts:
    keyboard, screen = range(2)
    width, depth = rng.uniform(0.75, 1.0), rng.uniform(0.5, 0.65)
    rotation = turn(0, -rng.uniform(5, 40))
    middle = np.array([0, 0.02, -depth / 2]) + rotation @ np.array([0, depth / 2, 0])
    yield keyboard, box((width, 0.04, depth))
    yield screen, box((width, depth, 0.025), middle, rotation)


def _motorbike(rng: np.random.Generator) -> Parts:
    tank, seat, wheel, handlebar, light, body = range(6)
    radius, base = rng.uniform(0.22, 0.28), rng.uniform(0.75, 0.95)
    thick, half = rng.uniform(0.04, 0.07), rng.uniform(0.18, 0.28)
    front, rise = base / 2, rng.uniform(0.4, 0.5)
    bar = (front - 0.16, rise + 0.12)
    yield from ((wheel, arc(radius, thick, 0, 360, (x, 0, 0))) for x in (-base / 2, base / 2))
    yield body, box((base * 0.45, 0.24, 0.16), (0, 0.08, 0))
    yield body, tube((front, 0, 0), (*bar, 0), 0.03)
    yield tank, ellipsoid((0.17, 0.1, 0.11), (0.12, rise - 0.1, 0))
    yield seat, box((rng.uniform(0.3, 0.42), 0.06, 0.16), (-0.22, rise - 0.16, 0))
    yield handlebar, tube((*bar, -half), (*bar, half), 0.022)
    yield light, ellipsoid((0.06, 0.07, 0.07), (front - 0.03, rise, 0))


def _mug(rng: np.random.Generator) -> Parts:
    handle, cup = range(2)
    radius, height = rng.uniform(0.28, 0.38), rng.uniform(0.6, 0.9)
    ring = height * rng.uniform(0.2, 0.32)
    end = radius * rng.uniform(0.85, 1.15)
    yield cup, tube((0, -height / 2, 0), (0, height / 2, 0), radius, end, caps=False)
    yield cup, tube((0, -height / 2 - 0.03, 0), (0, -height / 2, 0), radius)
    yield handle, arc(ring, rng.uniform(0.03, 0.05), -90, 90, ((radius + end) / 2, 0, 0))


def _pistol(rng: np.random.Generator) -> Parts:
    barrel, handle, trigger = range(3)
    length, high = rng.uniform(0.6, 0.9), rng.uniform(0.12, 0.18)
    grip, wide = rng.uniform(0.3, 0.42), rng.uniform(0.07, 0.1)
    rotation = turn(2, rng.uniform(5, 25))
    middle = np.array([0.08, -high / 2, 0]) + rotation @ np.array([0, -grip / 2, 0])
    yield barrel, box((length, high, wide), (length / 2 - 0.05, 0, 0))
    yield handle, box((0.15, grip, wide), middle, rotation)
    yield trigger, arc(0.08, 0.015, 180, 360, (0.26, -high / 2, 0))
    yield trigger, box((0.02, 0.07, 0.02), (0.26, -high / 2 - 0.035, 0))


def _rocket(rng: np.random.Generator) -> Parts:
    body, fin, nose = range(3)
    radius, length = rng.uniform(0.09, 0.16), rng.uniform(0.7, 1.0)
    high, wide = rng.uniform(0.18, 0.3), rng.uniform(0.12, 0.22)
    yield body, tube((0, 0, 0), (0, length, 0), radius)
    yield nose, tube((0, length, 0), (0, length + rng.uniform(0.2, 0.35), 0), radius, 0.0)
    count = int(rng.integers(3, 5))
    for index in range(count):
        rotation = turn(1, 360 * index / count)
        middle = rotation @ np.array([radius + wide / 2, high / 2, 0])
        yield fin, box((wide, high, 0.02), middle, rotation)


def _skateboard(rng: np.random.Generator) -> Parts:
    wheel, deck, truck = range(3)
    length, width = rng.uniform(0.9, 1.2), rng.uniform(0.24, 0.32)
    tail, tilt, radius = rng.uniform(0.12, 0.2), rng.uniform(10, 30), rng.uniform(0.05, 0.075)
    yield deck, box((length, 0.025, width))
    for side in (-1, 1):
        rotation = turn(2, side * tilt)
        middle = [side * length / 2, 0, 0] + rotation @ np.array([side * tail / 2, 0, 0])
        yield deck, box((tail, 0.025, width * 0.9), middle, rotation)
        x = side * length * 0.36
        yield truck, box((0.1, 0.07, 0.07), (x, -0.05, 0))
        yield truck, tube((x, -0.1, -width / 2), (x, -0.1, width / 2), 0.02)
        for z in (-width / 2, width / 2):
            yield wheel, tube((x, -0.1, z - 0.03), (x, -0.1, z + 0.03), radius)


def _table(rng: np.random.Generator) -> Parts:
    top, leg, drawer = range(3)
    width, depth, tall = rng.uniform((0.8, 0.5, 0.45), (1.2, 0.9, 0.75))
    thick = rng.uniform(0.03, 0.045)
    if rng.random() < 0.3:
        radius = depth * 0.65
        yield top, tube((0, 0, 0), (0, 0.05, 0), radius)
        yield leg, tube((0, -tall, 0), (0, 0, 0), 0.05)
        yield leg, tube((0, -tall - 0.04, 0), (0, -tall, 0), radius * 0.55, radius * 0.5)
        return
    yield top, box((width, 0.05, depth))
    for x, z in product((-0.45 * width, 0.45 * width), (-0.43 * depth, 0.43 * depth)):
        yield leg, tube((x, -tall, z), (x, -0.025, z), thick)
    if rng.random() < 0.5:
        size = np.array([width * 0.35, tall * rng.uniform(0.25, 0.4), depth * 0.75])
        place = (rng.choice([-1, 0, 1]) * width * 0.2, -0.025 - size[1] / 2, 0)
        yield drawer, box(size.tolist(), place)


BUILDERS = dict(zip(CATEGORIES, (
    _airplane, _bag, _cap, _car, _chair, _earphone, _guitar, _knife, _lamp, _laptop, _motorbike,
    _mug, _pistol, _rocket, _skateboard, _table,
), strict=True))  # fmt: skip
"""What puts a shape of each category together."""


def draw_shape(
    category: str, points: int, seed: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Puts one shape together and samples its surface, uniformly by area.

    The shape's vertical is y, its bounding box is centred on the origin and has a diagonal of
    length 1. Points may lie inside the shape, where one part reaches into another.

    Args:
        category (str): One of the 16 categories, such as 'Mug'.
        points (int): Number of points N, at least 1.
        seed (tuple[int, ...]): The same seed gives the same shape.

    Returns:
        tuple[np.ndarray, np.ndarray]: Coordinates and outward unit normals (N, 6), float64, and
        part labels (N,), int64, as ShapeNetPart numbers them.

    Raises:
        ValueError: If the category is unknown or ``points`` is not positive.

    >>> values, labels = draw_shape('Mug', points=500, seed=(0, 1))
    >>> values.shape, sorted(set(labels.tolist()))
    ((500, 6), [36, 37])
    """
    if category not in BUILDERS or points < 1:
        raise ValueError(
            f'needs at least 1 point of one of {", ".join(BUILDERS)}, got {points} of {category!r}'
        )
    rng = np.random.default_rng(seed)
    parts = list(BUILDERS[category](rng))
    areas = np.array([surface.area for _, surface in parts])
    counts = rng.multinomial(points, areas / areas.sum())
    drawn = zip(parts, counts.tolist(), strict=True)
    values = np.concatenate([np.hstack(part.sample(count, rng)) for (_, part), count in drawn])
    ranks = np.repeat([rank for rank, _ in parts], counts)
    low, high = values[:, :3].min(axis=0), values[:, :3].max(axis=0)
    diagonal = float(np.linalg.norm(high - low)) or 1.0
    values[:, :3] = (values[:, :3] - (low + high) / 2) / diagonal
    order = rng.permutation(points)
    return values[order], np.asarray(CATEGORY_PARTS[category])[ranks[order]]


def write_part_shapes(
    root: str | Path, shapes_per_category: Mapping[str, int], points: int = 2500, seed: int = 0
) -> None:
    """Writes a data set of synthetic shapes in ShapeNetPart's layout, unless it is there already.

    For the arguments see ``PartShapesDataset``. ``README.txt`` says that the shapes are synthetic.

    Raises:
        ValueError: If the splits are not 'train', 'val' and 'test', or a number is not positive.
    """
    if set(shapes_per_category) != set(SPLITS):
        raise ValueError(
            f'shapes_per_category must have the keys {", ".join(SPLITS)}, got '
            f'{", ".join(shapes_per_category)}'
        )
    if min(*shapes_per_category.values(), points) < 1:
        raise ValueError(
            'needs at least 1 shape of each category in each split and 1 point, got '
            f'{dict(shapes_per_category)} and {points}'
        )
    root = Path(root)
    if root.exists():
        return
    total = len(BUILDERS) * sum(shapes_per_category.values())
    print_log(f'writing {total} synthetic part-labelled shapes into {root}', logger='current')
    with atomic_folder(root) as folder:
        for split, number in shapes_per_category.items():
            _write_split(folder, split, number, points, seed)
        synsets = [f'{category}\t{synset}\n' for category, (synset, _) in CATEGORIES.items()]
        (folder / 'synsetoffset2category.txt').write_text(''.join(synsets))
        (folder / 'README.txt').write_text(NOTE)


def _write_split(root: Path, split: str, number: int, points: int, seed: int) -> None:
    """Writes a split's shapes and its shuffled list."""
    line = ' '.join(['%.6f'] * 7) + '\n'
    entries = []
    for rank, (category, (synset, _)) in enumerate(CATEGORIES.items()):
        (root / synset).mkdir(exist_ok=True)
        for index in range(number):
            values, labels = draw_shape(category, points, (seed, SPLITS[split], rank, index))
            table = np.column_stack([values, labels])
            name = f'{split}-{index:04d}'
            (root / synset / f'{name}.txt').write_text(line * points % tuple(table.ravel()))
            entries.append(f'shape_data/{synset}/{name}')
    np.random.default_rng((seed, SPLITS[split])).shuffle(entries)
    lists = root / 'train_test_split'
    lists.mkdir(exist_ok=True)
    (lists / f'shuffled_{split}_file_list.json').write_text(json.dumps(entries))


@DATASETS.register_module()
class PartShapesDataset(ShapeNetPartDataset):
    """Synthetic shapes of ShapeNetPart's categories, made from a seed when first needed.

    Args:
        split (str): 'train', 'val', 'trainval' or 'test'; their shapes differ.
        shapes_per_category (Mapping[str, int] | None): Number of shapes of each category in each
            split; by default 80, 4 and 10.
        points (int): Number of points of each shape in the files.
        seed (int): Seed of all shapes.
        data_root (str): Folder for the files; each choice of the last three arguments has its own
            in it.
        **kwargs: Passed to ``ShapeNetPartDataset``.
    """

    METAINFO = {**ShapeNetPartDataset.METAINFO, 'synthetic': True}

    def __init__(
        self,
        split: str = 'train',
        shapes_per_category: Mapping[str, int] | None = None,
        points: int = 2500,
        seed: int = 0,
        data_root: str = 'data/part_shapes',
        **kwargs: Any,
    ) -> None:
        numbers = dict(shapes_per_category or {'train': 80, 'val': 4, 'test': 10})
        sizes = '-'.join(str(numbers.get(split)) for split in SPLITS)
        folder = Path(data_root) / f'{sizes}-{points}-{seed}'
        write_part_shapes(folder, numbers, points, seed)
        super().__init__(data_root=str(folder), split=split, **kwargs)
