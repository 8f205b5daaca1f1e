"""The data set of shapes and the transforms of its pipeline."""

import shutil

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet3d')

from mmdet3d.structures import CameraPoints

from mmcert.datasets.shapenet_part import (
    CATEGORIES,
    AppendCategory,
    CentreAndScale,
    LoadShape,
    SampleShapePoints,
    ShapeNetPartDataset,
)

from .support import OFFICIAL

pytestmark = pytest.mark.usefixtures('mmdet3d_scope')


@pytest.fixture
def broken_root(shapes_root, tmp_path):
    """A copy in which a test may damage the first mug."""
    root = tmp_path / 'copy'
    shutil.copytree(shapes_root, root)
    return root, root / CATEGORIES['Mug'][0] / 'test-0000.txt'


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
    with pytest.raises(FileNotFoundError, match='the file of a .* in the list is missing'):
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
