"""Semantic transformations as training augmentation."""

import numpy as np
import pytest
import torch
from mmseg.registry import TRANSFORMS

from mmcert.datasets import StreetScenesDataset
from mmcert.scenes import draw_scene
from mmcert.transformations import TRANSFORMATIONS, build

RANGES = {
    'gaussian_blur': (0.5, 4),
    'brightness': (-0.3, 0.3),
    'contrast': (-1, 0.2),
    'brightness_contrast': [(-1, 0.2), (-0.3, 0.3)],
    'gamma': (1.5, 3),
    'translation': [(-10, 10), (-5, 5)],
    'rotation': (-20, 20),
    'scaling': (0.8, 1.3),
    'rotation_scaling': [(-20, 20), (0.8, 1.3)],
    'rotational_blur': (1, 5),
    'defocus_blur': (0.8, 3),
    'zoom_blur': (1.02, 1.2),
    'motion_blur': [(2, 9), (-180, 180)],
    'pixelate': (1.5, 4),
    'jpeg': (10, 90),
}


def semantic(transformation, **arguments):
    cfg = dict(type='mmcert.SemanticTransform', transformation=transformation, **arguments)
    return TRANSFORMS.build(cfg)


def scene():
    image, labels = draw_scene(48, 64, (0, 1))
    return dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map'])


@pytest.mark.parametrize('name', TRANSFORMATIONS)
def test_every_transformation_is_an_augmentation_by_name(name):
    np.random.seed(1)
    before = scene()
    results = semantic(dict(type=name), range=RANGES[name])(scene())
    assert results['img'].dtype == np.float32
    assert results['img'].shape == before['img'].shape
    assert results['img'].flags.c_contiguous
    assert np.abs(results['img'] - before['img']).max() > 2
    moved = (results['gt_seg_map'] != before['gt_seg_map']).any()
    assert moved == TRANSFORMATIONS[name].moves_labels
    assert results['gt_seg_map'].dtype == before['gt_seg_map'].dtype


def test_image_and_labels_get_the_same_parameter():
    results = semantic('rotation', values=[-30])(scene())
    before = scene()
    image = torch.from_numpy(before['img']).permute(2, 0, 1)[None].float() / 255
    expected = build('rotation')(image, -30)[0].permute(1, 2, 0) * 255
    np.testing.assert_allclose(results['img'], expected.numpy(), atol=1e-3)
    labels = build('rotation').labels(torch.from_numpy(before['gt_seg_map'])[None], -30)
    np.testing.assert_array_equal(results['gt_seg_map'], labels[0].numpy())
    assert (results['gt_seg_map'][0, 0], results['gt_seg_map'][-1, -1]) == (255, 255)


def test_nothing_is_clipped():
    results = semantic('brightness', values=[0.5])(scene())
    np.testing.assert_allclose(results['img'], scene()['img'] + 127.5, atol=1e-3)


def test_drawn_parameters_follow_the_workers_seed():
    transform = semantic('brightness', range=(0.1, 0.3), prob=0.7)
    draws = []
    for _ in range(2):
        np.random.seed(3)
        shifts = [
            float(transform(dict(img=np.zeros((4, 4, 3), np.uint8)))['img'].max()) / 255
            for _ in range(60)
        ]
        draws.append(shifts)
    assert draws[0] == draws[1]
    drawn = [s for s in shifts if s > 0]
    assert 30 <= len(drawn) <= 54
    assert 0.1 <= min(drawn) < 0.13 and 0.27 < max(drawn) <= 0.3


def test_values_are_chosen_and_whole_parameters_stay_whole():
    np.random.seed(0)
    transform = semantic('brightness', values=[0.1, 0.2])
    image = np.zeros((2, 2, 3), np.uint8)
    shifts = {round(float(transform(dict(img=image))['img'].max()) / 255, 3) for _ in range(40)}
    assert shifts == {0.1, 0.2}
    stored = semantic('jpeg', range=(40, 42))
    drawn = {float(stored._draw_parameters()[0]) for _ in range(60)}
    assert drawn == {40, 41, 42}


def test_an_image_without_labels_is_transformed():
    results = semantic('scaling', values=[1.2])(dict(img=scene()['img']))
    assert set(results) == {'img'}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(transformation='fog', range=(0, 1)), "unknown transformation 'fog'"),
        (dict(transformation='defocus_blur'), 'either range or values'),
        (dict(transformation='defocus_blur', range=(0, 1), values=[1]), 'either'),
        (dict(transformation='defocus_blur', values=[]), 'at least one'),
        (dict(transformation='defocus_blur', range=(2, 1)), 'low <= high'),
        (dict(transformation='defocus_blur', range=(0, 99)), r'\[0, 50\]'),
        (dict(transformation='translation', range=(0, 1)), '2 pairs'),
        (dict(transformation='defocus_blur', values=[1], prob=2), 'prob'),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        semantic(**arguments)


def test_an_image_outside_0_255_is_refused():
    noisy = scene()['img'].astype(np.float32) + 300
    with pytest.raises(ValueError, match='before normalising or adding noise'):
        semantic('defocus_blur', values=[1])(dict(img=noisy))


def test_it_stands_in_a_pipeline(scenes_root):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(
            type='mmcert.SemanticTransform',
            transformation=dict(type='translation', padding='zeros'),
            values=[(100, 0)],
        ),
        dict(type='mmcert.AddGaussianNoise', sigma=0.1),
        dict(type='PackSegInputs'),
    ]
    dataset = StreetScenesDataset(
        split='val', num_images=2, data_root=str(scenes_root), pipeline=pipeline
    )
    labels = dataset[0]['data_samples'].gt_sem_seg.data
    assert (labels[..., :100] == 255).all()
    assert (labels[..., 100:] != 255).float().mean() > 0.7
