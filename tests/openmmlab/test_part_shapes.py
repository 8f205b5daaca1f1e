"""Part segmentation: the synthetic shapes, the data set, the segmentor, its metric, training."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

pytest.importorskip('mmdet3d')

from mmdet3d.structures import CameraPoints, Det3DDataSample, PointData
from mmengine.registry import init_default_scope

from mmcert.datasets import part_shapes, shapenet_part
from mmcert.datasets.part_shapes import (
    PartShapesDataset,
    draw_shape,
    write_part_shapes,
)
from mmcert.datasets.shapenet_part import (
    CATEGORIES,
    CATEGORY_PARTS,
    AppendCategory,
    CentreAndScale,
    LoadShape,
    SampleShapePoints,
    ShapeNetPartDataset,
    read_shape,
)
from mmcert.evaluation.part_iou import PartIoUMetric, part_ious
from mmcert.models.part_segmentor import FOREIGN_LOGIT
from mmcert.pointops import install_cpu_point_ops
from mmcert.registry import MODELS

from .conftest import ROOT

install_cpu_point_ops()

CONFIGS = sorted((ROOT / 'configs').glob('*part*/pointnet2-*.py'))
CLEAN = ROOT / 'configs/part_shapes/pointnet2-ssg-light_clean-20e_part-shapes-normals-1024.py'
XYZ = ROOT / 'configs/part_shapes/pointnet2-ssg-light_noise-s0.25-20e_part-shapes-xyz-1024.py'
COUNTS = dict(train=2, val=1, test=1)

# The public code's table (train_partseg.py of PointNet++): the labels of each category.
OFFICIAL = {
    'Earphone': [16, 17, 18],
    'Motorbike': [30, 31, 32, 33, 34, 35],
    'Rocket': [41, 42, 43],
    'Car': [8, 9, 10, 11],
    'Laptop': [28, 29],
    'Cap': [6, 7],
    'Skateboard': [44, 45, 46],
    'Mug': [36, 37],
    'Guitar': [19, 20, 21],
    'Bag': [4, 5],
    'Lamp': [24, 25, 26, 27],
    'Table': [47, 48, 49],
    'Airplane': [0, 1, 2, 3],
    'Pistol': [38, 39, 40],
    'Chair': [12, 13, 14, 15],
    'Knife': [22, 23],
}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet3d')
    yield
    init_default_scope('mmseg')


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes') / 'made'
    write_part_shapes(root, COUNTS, points=300)
    return root


@pytest.fixture
def broken_root(shapes_root, tmp_path):
    """A copy in which a test may damage the first mug."""
    root = tmp_path / 'copy'
    shutil.copytree(shapes_root, root)
    return root, root / CATEGORIES['Mug'][0] / 'test-0000.txt'


# ---------------------------------------------------------------- the generator


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


# ---------------------------------------------------------------- the data set


def test_splits_and_categories(shapes_root):
    def names(**options):
        built = ShapeNetPartDataset(data_root=str(shapes_root), pipeline=[], **options)
        return [built[index]['shape_id'] for index in range(len(built))]

    assert len(names(split='train')) == 32
    assert names(split='trainval') == names(split='train') + names(split='val')
    assert not set(names(split='trainval')) & set(names(split='test'))
    mugs = names(split='train', categories=['Mug', 'Cap'])
    assert sorted({name.split('/')[0] for name in mugs}) == ['02954340', '03797390']
    built = ShapeNetPartDataset(data_root=str(shapes_root), pipeline=[], categories=['Mug'])
    assert built[0]['category_id'] == list(CATEGORIES).index('Mug')


def pipeline(points=64, seed=0, use_normals=True):
    return [
        dict(type='mmcert.LoadShape', use_normals=use_normals),
        dict(type='mmcert.CentreAndScale'),
        dict(type='mmcert.SampleShapePoints', num_points=points, seed=seed),
        dict(type='mmcert.AppendCategory'),
        dict(
            type='Pack3DDetInputs',
            keys=['points', 'pts_semantic_mask'],
            meta_keys=['lidar_path', 'sample_idx', 'shape_id', 'category'],
        ),
    ]


def test_a_sample_is_packed_as_mmdetection3d_wants_it(shapes_root):
    built = ShapeNetPartDataset(
        data_root=str(shapes_root), split='test', test_mode=True, pipeline=pipeline()
    )
    for index in range(len(built)):
        item = built[index]
        points, sample = item['inputs']['points'], item['data_samples']
        assert points.shape == (64, 6 + 16)
        category = list(CATEGORIES)[int(points[0, 6:].argmax())]
        assert sample.category == category
        assert sample.lidar_path.endswith(f'{sample.shape_id}.txt')
        labels = sample.gt_pts_seg.pts_semantic_mask
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) <= set(OFFICIAL[category])
        np.testing.assert_array_equal(sample.eval_ann_info['pts_semantic_mask'], labels)


def test_points_labels_and_normals_stay_together(shapes_root):
    results = dict(
        lidar_path=str(shapes_root / CATEGORIES['Car'][0] / 'test-0000.txt'),
        shape_id='car',
        category='Car',
    )
    loaded = LoadShape()(dict(results))
    sampled = SampleShapePoints(100, seed=1)(LoadShape()(dict(results)))
    known = zip(loaded['points'].tensor.tolist(), loaded['pts_semantic_mask'], strict=True)
    rows = {tuple(row): label for row, label in known}
    for row, label in zip(
        sampled['points'].tensor.tolist(), sampled['pts_semantic_mask'], strict=True
    ):
        assert rows[tuple(row)] == label
    assert sampled['points'].attribute_dims == {'normal': [3, 4, 5]}
    assert LoadShape(use_normals=False)(dict(results))['points'].tensor.shape == (300, 3)


def test_a_cloud_is_centred_and_scaled_to_the_unit_ball():
    torch.manual_seed(0)
    values = torch.rand(50, 6) * 7 + 3
    results = CentreAndScale()(dict(points=CameraPoints(values, 6)))
    coordinates = results['points'].tensor[:, :3]
    assert coordinates.mean(dim=0).abs().max() < 1e-5
    assert coordinates.norm(dim=1).max() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(results['points'].tensor[:, 3:], values[:, 3:])
    with pytest.raises(ValueError, match='all 5 points are the same'):
        CentreAndScale()(dict(points=CameraPoints(torch.ones(5, 3), 3)))


def sample_points(number, available, seed, name='a'):
    results = dict(
        points=CameraPoints(torch.arange(available * 3.0).view(-1, 3), 3),
        pts_semantic_mask=np.arange(available),
        shape_id=name,
    )
    return SampleShapePoints(number, seed)(results)['pts_semantic_mask']


def test_a_test_shape_has_one_fixed_subset_and_a_training_shape_many():
    fixed = sample_points(40, 100, seed=0)
    assert len(set(fixed)) == 40
    np.testing.assert_array_equal(fixed, sample_points(40, 100, seed=0))
    assert (fixed != sample_points(40, 100, seed=1)).any()
    assert (fixed != sample_points(40, 100, seed=0, name='b')).any()
    np.random.seed(0)
    assert (sample_points(40, 100, None) != sample_points(40, 100, None)).any()


def test_a_shape_with_too_few_points_is_filled_up_with_repeated_ones():
    chosen = sample_points(50, 30, seed=0)
    assert len(chosen) == 50
    assert set(chosen) == set(range(30))


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(split='dev'), ValueError, 'train, val, trainval, test'),
        (dict(categories=['Mug', 'Boat']), ValueError, 'unknown categories: Boat'),
        (dict(data_root='nowhere'), FileNotFoundError, 'no folder nowhere.*PartShapesDataset'),
    ],
)
def test_a_data_set_that_cannot_be_is_refused(shapes_root, options, error, message):
    with pytest.raises(error, match=message):
        ShapeNetPartDataset(**{'data_root': str(shapes_root), 'pipeline': [], **options})


@pytest.mark.parametrize(
    ('name', 'text', 'error', 'message'),
    [
        ('train_test_split/shuffled_train_file_list.json', None, FileNotFoundError, 'train split'),
        ('train_test_split/shuffled_train_file_list.json', '["mugs"]', ValueError, "'mugs' is not"),
        ('synsetoffset2category.txt', None, FileNotFoundError, 'list of categories'),
        ('synsetoffset2category.txt', 'Boat\t1', ValueError, 'line 1.*Boat'),
    ],
)
def test_damaged_lists_are_named(broken_root, name, text, error, message):
    root, _ = broken_root
    (root / name).unlink()
    if text is not None:
        (root / name).write_text(text)
    with pytest.raises(error, match=message):
        ShapeNetPartDataset(data_root=str(root), split='train', pipeline=[])


GOOD = '0.1 0.2 0.3 0 1 0 36.000000\n'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (GOOD + '0.1 0.2 0.3\n', 'malformed line'),
        (GOOD + '0.1 0.2 x 0 1 0 36\n', 'malformed line.*x'),
        ('0.1 0.2 0.3 36\n', '7 columns'),
        (GOOD + 'nan 0.2 0.3 0 1 0 36\n', 'line 2: the coordinates.*not finite'),
        (GOOD + '0.1 0.2 0.3 0 1 0 47\n', 'line 2: label 47 is no part of Mug'),
        (GOOD + '0.1 0.2 0.3 0 1 0 36.5\n', 'label 36.5'),
        ('', 'no points'),
    ],
)
def test_damaged_shapes_are_named(broken_root, text, message):
    root, path = broken_root
    path.write_text(text)
    built = ShapeNetPartDataset(
        data_root=str(root), split='test', categories=['Mug'], pipeline=[LoadShape()]
    )
    with pytest.raises(ValueError, match=message) as error:
        built[0]
    assert str(path) in str(error.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match='names the shape .* which is missing'):
        built[0]


def test_a_normal_that_is_not_finite_is_refused_where_normals_are_used(broken_root):
    _, path = broken_root
    path.write_text(GOOD + '0.1 0.2 0.4 nan 1 0 36\n')
    results = dict(lidar_path=str(path), category='Mug')
    assert len(LoadShape(use_normals=False)(dict(results))['points']) == 2
    with pytest.raises(ValueError, match='normal that is not finite'):
        LoadShape()(dict(results))


def test_the_category_travels_in_the_last_columns():
    results = dict(points=CameraPoints(torch.rand(5, 6), 6, dict(normal=[3, 4, 5])), category_id=11)
    points = AppendCategory()(results)['points']
    assert points.tensor.shape == (5, 22)
    assert points.tensor[:, 6:].argmax(dim=1).tolist() == [11] * 5
    assert (points.tensor[:, 6:].sum(dim=1) == 1).all()
    assert points.attribute_dims == {'normal': [3, 4, 5], 'category': list(range(6, 22))}
    for category in (-1, 16):
        with pytest.raises(ValueError, match=f'category id {category} .* 0 to 15'):
            AppendCategory()(dict(points=CameraPoints(torch.rand(5, 3), 3), category_id=category))


# ---------------------------------------------------------------- the segmentor


def small_model(path=CLEAN):
    model = Config.fromfile(path).model
    channels = model.backbone.in_channels
    model.backbone.update(
        num_points=(32, 8, 1), num_samples=(8, 8, 8), sa_channels=((8, 8), (8, 8), (8, 16))
    )
    model.decode_head.update(
        channels=8, fp_channels=((24, 8), (16, 8), (8 + 16 + channels, 8)), dropout_ratio=0
    )
    return model


def clouds(categories, points=64, channels=6):
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(len(categories), points, channels + 16, generator=generator)
    batch[:, :, channels:] = 0
    for cloud, category in zip(batch, categories, strict=True):
        cloud[:, channels + category] = 1
    return batch


def build(model):
    torch.manual_seed(0)
    built = MODELS.build(model).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


@pytest.mark.parametrize('path', [CLEAN, XYZ], ids=['normals', 'xyz'])
def test_predictions_are_parts_of_the_category_and_the_same_in_a_batch(path):
    model = build(small_model(path))
    channels = 6 if path == CLEAN else 3
    categories = [4, 11, 0, 4]
    batch = clouds(categories, channels=channels)
    samples = [Det3DDataSample() for _ in categories]
    with torch.no_grad():
        together = model.inference(batch, [{}] * 4, True)
        predicted = model.predict(dict(points=list(batch)), samples)
        raw = model._forward(dict(points=list(batch)))
    assert together.shape == (4, 50, 64)
    parts = list(CATEGORY_PARTS.values())
    for logits, sample, category, free in zip(together, predicted, categories, raw, strict=True):
        single = sample.pts_seg_logits.pts_seg_logits
        torch.testing.assert_close(single, logits, rtol=1e-4, atol=1e-4)
        labels = sample.pred_pts_seg.pts_semantic_mask
        assert set(labels.tolist()) <= set(parts[category])
        foreign = sorted(set(range(50)) - set(parts[category]))
        assert (logits[foreign] == FOREIGN_LOGIT).all()
        torch.testing.assert_close(logits[list(parts[category])], free[list(parts[category])])
    assert not set(raw.argmax(dim=1).flatten().tolist()) <= {*parts[4], *parts[11], *parts[0]}


def test_the_category_changes_the_features_and_not_only_the_mask():
    model = build(small_model())
    first, second = clouds([4]), clouds([4])
    second[:, :, 6:] = clouds([11])[:, :, 6:]
    with torch.no_grad():
        difference = model._forward(dict(points=list(first))) - model._forward(
            dict(points=list(second))
        )
    assert difference.abs().max() > 1e-3


def test_multi_scale_grouping_works_too():
    model = Config.fromfile(
        ROOT / 'configs/shapenet_part/pointnet2-msg_clean-250e_shapenet-part-normals-2048.py'
    ).model
    model.backbone.update(num_points=(32, 8, 1))
    built = build(model)
    with torch.no_grad():
        assert built.inference(clouds([1, 2]), [{}, {}], True).shape == (2, 50, 64)


def damaged(kind):
    batch = clouds([4, 11])
    if kind == 'noise':
        batch += 0.01
    elif kind == 'two':
        batch[:, :, 6] = 1
    elif kind == 'none':
        batch[:, :, 6:] = 0
    elif kind == 'mixed':
        batch[0, 5, 6:] = batch[1, 5, 6:]
    return batch


@pytest.mark.parametrize(
    ('batch', 'message'),
    [
        *((damaged(kind), 'one-hot') for kind in ('noise', 'two', 'none', 'mixed')),
        (clouds([4])[:, :, :16], '16 columns.*AppendCategory'),
        (clouds([4], points=31), 'samples 32 points first and got clouds of 31'),
        (clouds([4], channels=3), 'made for 30 channels.*gets 8 .* 16 .* 3 of'),
    ],
)
def test_clouds_that_the_segmentor_cannot_take_are_refused(batch, message):
    model = build(small_model())
    if 'made for' in message:
        model.backbone = build(small_model(XYZ)).backbone
    with pytest.raises(ValueError, match=message):
        model.inference(batch, [{}] * len(batch), True)


def test_clouds_of_different_sizes_are_refused_in_training_and_welcome_in_prediction():
    model = build(small_model())
    points = [clouds([4])[0], clouds([4], points=80)[0]]
    with pytest.raises(ValueError, match='same size'):
        model.loss(dict(points=points), [])
    predicted = model.predict(dict(points=points), [Det3DDataSample(), Det3DDataSample()])
    assert [len(s.pred_pts_seg.pts_semantic_mask) for s in predicted] == [64, 80]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(category_parts=[[0, 50]]), 'category 0 must be labels in 0 to 49'),
        (dict(category_parts=[[0], []]), 'category 1'),
        (dict(test_cfg=dict(mode='slide')), "mode='whole'"),
    ],
)
def test_impossible_segmentors_are_refused(options, message):
    model = small_model()
    model.update(options)
    with pytest.raises(ValueError, match=message):
        MODELS.build(model)


# ---------------------------------------------------------------- the metric


@pytest.mark.parametrize(
    ('prediction', 'label', 'parts', 'ious'),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], [0, 1], [1, 1]),
        ([0, 1, 1, 1], [0, 0, 1, 1], [0, 1], [1 / 2, 2 / 3]),
        # Part 2 is absent in both; part 1 only predicted.
        ([0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 2], [3 / 4, 0, 1]),
        # An abstention is wrong for its true part, and nobody's prediction.
        ([254, 0, 1, 254], [0, 0, 1, 1], [0, 1], [1 / 2, 1 / 2]),
        ([254, 254], [5, 5], [4, 5], [1, 0]),
    ],
)
def test_ious_of_a_shape_by_hand(prediction, label, parts, ious):
    assert part_ious(prediction, label, parts).tolist() == pytest.approx(ious)


@pytest.mark.parametrize(
    ('prediction', 'label', 'parts', 'message'),
    [
        ([0, 1], [0], [0, 1], r'\(2,\) and \(1,\)'),
        ([], [], [0], 'N >= 1'),
        ([0], [0], [], 'at least one part'),
        ([0], [7], [0, 1], 'label 7'),
    ],
)
def test_ious_refuse_what_is_no_shape(prediction, label, parts, message):
    with pytest.raises(ValueError, match=message):
        part_ious(prediction, label, parts)


def judged(category, prediction, label, where='eval_ann_info'):
    sample = Det3DDataSample(metainfo=dict(category=category))
    sample.pred_pts_seg = PointData(pts_semantic_mask=torch.tensor(prediction))
    if where == 'eval_ann_info':
        sample.eval_ann_info = dict(pts_semantic_mask=np.array(label))
    else:
        sample.gt_pts_seg = PointData(pts_semantic_mask=torch.tensor(label))
    return sample.to_dict()


def test_the_metric_averages_over_shapes_and_over_categories():
    metric = PartIoUMetric()
    metric.dataset_meta = ShapeNetPartDataset.METAINFO
    metric.process(
        None,
        [
            judged('Mug', [36, 36, 37, 37], [36, 36, 37, 37]),  # 1
            judged('Mug', [36, 37, 37, 37], [36, 36, 37, 37], 'gt_pts_seg'),  # 7 / 12
            judged('Cap', [7, 7], [6, 6]),  # 0
        ],
    )
    result = metric.evaluate(3)
    assert result == pytest.approx(
        {
            'part/accuracy': 7 / 10,
            'part/instance_mIoU': (1 + 7 / 12) / 3,
            'part/class_mIoU': (1 + 7 / 12) / 4,
            'part/Mug': (1 + 7 / 12) / 2,
            'part/Cap': 0,
        }
    )


def test_the_metric_says_what_it_misses():
    metric = PartIoUMetric()
    sample = judged('Mug', [36], [36])
    metric.dataset_meta = {}
    with pytest.raises(ValueError, match='category_parts'):
        metric.process(None, [sample])
    metric.dataset_meta = ShapeNetPartDataset.METAINFO
    with pytest.raises(ValueError, match='meta_keys'):
        metric.process(None, [{**sample, 'category': None}])
    with pytest.raises(ValueError, match='no ground truth'):
        metric.process(None, [{**sample, 'eval_ann_info': None}])


# ---------------------------------------------------------------- configs and training


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_its_pipeline_feeds_its_model(path, shapes_root):
    cfg = Config.fromfile(path)
    name = path.stem
    assert [list(parts) for parts in cfg.model.category_parts] == [
        list(parts) for parts in CATEGORY_PARTS.values()
    ]
    model = MODELS.build(cfg.model)
    noise = [
        step.jitter_std for step in cfg.train_dataloader.dataset.pipeline
        if step.type == 'RandomJitterPoints'
    ]  # fmt: skip
    assert noise == (
        [[float(name.split('noise-s')[1].split('-')[0])] * 3] if 'noise' in name else []
    )
    for mode in ('train', 'val', 'test'):
        dataset = cfg[f'{mode}_dataloader'].dataset
        built = ShapeNetPartDataset(
            data_root=str(shapes_root),
            split='test',
            pipeline=dataset.pipeline,
            test_mode=dataset.get('test_mode', False),
        )
        points = built[0]['inputs']['points']
        assert len(points) == int(name.split('-')[-1])
        assert points.shape[1] == model.backbone.SA_modules[0].mlps[0][0].in_channels + 16
        assert ('normals' in name) == (points.shape[1] == 22)
        largest = points[:, :3].norm(dim=1).max()
        assert largest <= 1.0001 or mode == 'train'


def test_one_training_step_and_validation_through_the_runner(shapes_root, tmp_path):
    cfg = Config.fromfile(XYZ)
    cfg.model = small_model(XYZ)
    cfg.work_dir = str(tmp_path)
    for mode in ('train', 'val', 'test'):
        loader = cfg[f'{mode}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
        loader.dataset.update(
            data_root=str(tmp_path),
            shapes_per_category=COUNTS,
            points=80,
            categories=['Mug', 'Cap'],
        )
        loader.dataset.pipeline[2].num_points = 64
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.experiment_name = 'part-shapes-step'
    cfg.visualizer.name = cfg.experiment_name
    runner = Runner.from_cfg(cfg)
    before = runner.model.decode_head.conv_seg.weight.detach().clone()
    runner.train()
    assert (runner.model.decode_head.conv_seg.weight != before).any()
    assert (tmp_path / 'epoch_1.pth').exists()
    metrics = runner.test()
    assert set(metrics) == {
        f'part/{key}' for key in ('accuracy', 'instance_mIoU', 'class_mIoU', 'Mug', 'Cap')
    }
    assert all(0 <= value <= 1 for value in metrics.values())
