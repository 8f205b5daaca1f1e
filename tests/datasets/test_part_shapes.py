"""The synthetic shapes: primitives, categories, files."""

import json
import math

import numpy as np
import pytest

from mmcert.datasets import part_shapes, shapenet_part
from mmcert.datasets.part_shapes import PartShapesDataset, draw_shape, write_part_shapes
from mmcert.datasets.shapenet_part import (
    CATEGORIES,
    CATEGORY_PARTS,
    ShapeNetPartDataset,
    read_shape,
)

from .support import COUNTS, OFFICIAL


def test_the_parts_are_numbered_as_in_the_public_data_set():
    assert {name: list(parts) for name, parts in CATEGORY_PARTS.items()} == OFFICIAL
    assert len(shapenet_part.CLASSES) == 50 == len(set(shapenet_part.CLASSES))
    palette = ShapeNetPartDataset.METAINFO['palette']
    assert len({tuple(colour) for colour in palette}) == 50
    assert [255, 255, 255] not in palette


PRIMITIVES = {
    'box': part_shapes.box((1, 2, 0.5)),
    'cylinder': part_shapes.tube((0, -1, 0), (0, 1, 0), 0.5),
    'frustum': part_shapes.tube((-0.3, 0, 0), (0.4, 0, 0), 0.6, 0.2),
    'cone': part_shapes.tube((0, 0, -0.3), (0, 0, 1), 0.6, 0.0),
    'ellipsoid': part_shapes.ellipsoid((1, 0.5, 0.25)),
    'dome': part_shapes.ellipsoid((1, 0.5, 0.75), upper=True),
}


@pytest.mark.parametrize('name', PRIMITIVES)
def test_normals_of_convex_primitives_are_unit_and_point_outwards(name):
    points, normals = PRIMITIVES[name].sample(4000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-12)
    # A supporting plane: no point of the body lies above the plane through a point of its surface.
    heights = normals[:200] @ points.T - (normals[:200] * points[:200]).sum(axis=1)[:, None]
    assert heights.max() < 1e-9


def test_normals_of_a_bent_tube_point_away_from_its_centre_line():
    points, normals = part_shapes.arc(0.5, 0.1, 0, 180).sample(2000, np.random.default_rng(0))
    flat = points * [1, 1, 0]
    centre = 0.5 * flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose((points - centre) / 0.1, normals, atol=1e-9)
    assert (points[:, 1] >= -1e-9).all()


def test_a_placed_primitive_turns_its_normals_too():
    rotation = part_shapes.turn(2, 90)
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    surface = part_shapes.box((1, 2, 3), (5, 0, 0), rotation)
    points, normals = surface.sample(1000, np.random.default_rng(0))
    assert (((points - [5, 0, 0]) * normals).sum(axis=1) > 0).all()
    np.testing.assert_allclose(points.max(axis=0), [6, 0.5, 1.5], atol=0.02)


@pytest.mark.parametrize(
    ('surface', 'area'),
    [
        (PRIMITIVES['box'], 2 * (2 + 1 + 0.5)),
        (PRIMITIVES['cylinder'], 2 * math.pi * 0.5 * 2.5),
        (PRIMITIVES['frustum'], math.pi * (0.8 * math.hypot(0.7, 0.4) + 0.36 + 0.04)),
        (part_shapes.ellipsoid((2, 2, 2)), 16 * math.pi),
        # An oblate spheroid's closed form, a = 1, c = 1/2: e^2 = 3/4.
        (
            part_shapes.ellipsoid((1, 1, 0.5)),
            2 * math.pi * (1 + 0.25 / math.sqrt(0.75) * math.atanh(math.sqrt(0.75))),
        ),
        (part_shapes.arc(0.5, 0.1, 0, 360), 4 * math.pi**2 * 0.05),
    ],
)
def test_areas_are_those_of_geometry(surface, area):
    assert surface.area == pytest.approx(area, rel=1e-3)


def test_points_are_uniform_by_area():
    rng = np.random.default_rng(1)
    n = 20000
    # Archimedes: heights on a sphere are uniform.
    points, _ = part_shapes.ellipsoid((1, 1, 1)).sample(n, rng)
    assert np.histogram(points[:, 2], 4, (-1, 1))[0] / n == pytest.approx(0.25, abs=0.015)
    # A box's faces have their share of its area.
    _, normals = PRIMITIVES['box'].sample(n, rng)
    assert np.abs(normals).mean(axis=0) == pytest.approx(np.array([1, 0.5, 2]) / 3.5, abs=0.015)
    # Half of a cone's side lies beyond 1/sqrt(2) of the distance from its tip.
    points, _ = part_shapes.tube((0, 0, 0), (0, 0, 1), 1, 0, caps=False).sample(n, rng)
    assert (points[:, 2] < 1 - math.sqrt(0.5)).mean() == pytest.approx(0.5, abs=0.015)
    # The outer half of a torus: 1/2 + r / (pi R).
    points, _ = part_shapes.arc(0.5, 0.2, 0, 360).sample(n, rng)
    outer = (np.linalg.norm(points[:, :2], axis=1) > 0.5).mean()
    assert outer == pytest.approx(0.5 + 0.2 / (math.pi * 0.5), abs=0.015)


@pytest.mark.parametrize('category', CATEGORIES)
def test_shapes_have_the_parts_of_their_category(category):
    seen = set()
    for index in range(12):
        values, labels = draw_shape(category, 400, (0, index))
        assert values.shape == (400, 6)
        np.testing.assert_allclose(np.linalg.norm(values[:, 3:], axis=1), 1, atol=1e-9)
        extent = values[:, :3].max(axis=0) - values[:, :3].min(axis=0)
        assert np.linalg.norm(extent) == pytest.approx(1)
        seen |= set(labels.tolist())
    assert seen == set(OFFICIAL[category])


def test_a_shape_is_the_same_from_the_same_seed():
    first, again, other = (draw_shape('Chair', 200, (0, seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_the_files_have_the_public_layout(shapes_root):
    synsets = dict(
        line.split()
        for line in (shapes_root / 'synsetoffset2category.txt').read_text().splitlines()
    )
    assert synsets['Airplane'] == '02691156'
    assert list(synsets) == sorted(synsets) == sorted(OFFICIAL)
    for split, number in COUNTS.items():
        path = shapes_root / 'train_test_split' / f'shuffled_{split}_file_list.json'
        entries = json.loads(path.read_text())
        assert len(entries) == 16 * number
        assert entries != sorted(entries)
        for entry in entries:
            folder, synset, name = entry.split('/')
            assert folder == 'shape_data'
            assert (shapes_root / synset / f'{name}.txt').exists()
    assert 'not ShapeNet data' in (shapes_root / 'README.txt').read_text()
    line = (shapes_root / synsets['Mug'] / 'val-0000.txt').read_text().splitlines()[0]
    assert len(line.split()) == 7


def test_what_is_written_is_read_again(shapes_root):
    rank = list(CATEGORIES).index('Lamp')
    values, labels = draw_shape('Lamp', 300, (0, part_shapes.SPLITS['train'], rank, 1))
    path = shapes_root / CATEGORIES['Lamp'][0] / 'train-0001.txt'
    read, decode_labels = read_shape(path, 'Lamp')
    np.testing.assert_allclose(read, values, atol=1e-6)
    np.testing.assert_array_equal(decode_labels, labels)


def test_the_data_set_makes_its_files_once(tmp_path):
    def build():
        return PartShapesDataset(
            'val', COUNTS, points=50, data_root=str(tmp_path), categories=['Mug'], pipeline=[]
        )

    def times():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.*')}

    assert len(build()) == 1
    made = times()
    assert len(build()) == 1
    assert times() == made
    assert [path.name for path in tmp_path.iterdir()] == ['2-1-1-50-0']
    assert build().metainfo['synthetic']


@pytest.mark.parametrize(
    ('numbers', 'points', 'message'),
    [
        (dict(train=1, test=1), 10, 'train, val, test'),
        (dict(train=1, val=0, test=1), 10, 'at least 1 shape'),
        (COUNTS, 0, '1 point'),
    ],
)
def test_impossible_data_sets_are_refused(tmp_path, numbers, points, message):
    with pytest.raises(ValueError, match=message):
        write_part_shapes(tmp_path / 'x', numbers, points)
    assert not list(tmp_path.iterdir())
