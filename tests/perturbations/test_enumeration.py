"""Finite attack sets: what they take, and what the base model is shown and asked."""

import numpy as np
import pytest
import torch

from mmcert.perturbations import CLASSES, Enumeration, from_spec
from mmcert.transformations import TRANSFORMATIONS, Rotation, build

VALUES = {
    'translation': [[2.0, 0.0], [0.3, -1.2]],
    'motion_blur': [[2, 0], [3, 45]],
    'scaling': [0.9, 1.1],
    'zoom_blur': [1.02, 1.1],
    'jpeg': [80, 20],
    'pixelate': [2, 3],
    'rotation_scaling': [[-4.0, 0.9], [7.0, 1.1]],
    'brightness_contrast': [[0.1, -0.2], [-0.3, 0.1]],
    'gamma': [0.7, 2.2],
}


def image_of(dtype=torch.float32):
    source = torch.Generator().manual_seed(0)
    return torch.rand(3, 9, 12, generator=source, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(range=(-1, 1)), 'finite list of its parameters, and no range: a range or a box has'),
        (dict(low=-1, high=1), 'and no low, high'),
        (dict(values=[1], mode='lipschitz'), 'and no mode'),
        (dict(attack=dict(range=(-1, 1))), 'and no attack'),
        (dict(values=dict(range=(-1, 1))), 'got values='),
        (dict(values=[]), 'at least one parameter'),
        (dict(), 'at least one parameter'),
        (dict(values=[[-1, 1]]), 'shape'),
        (dict(values=[361]), 'must lie in'),
        (dict(values=[float('nan')]), 'must lie in'),
    ],
)
def test_what_is_no_finite_set_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Enumeration('rotation', **arguments)


def test_a_transformation_without_a_spec_of_its_own_is_refused():
    class Other(Rotation):
        pass

    with pytest.raises(ValueError, match='Other has the spec of Rotation'):
        Enumeration(Other(), [1])


@pytest.mark.parametrize('name', TRANSFORMATIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_attacked_images_are_those_of_double_precision_rounded_to_the_type(name, dtype):
    values = VALUES.get(name, [0.1, 0.7])
    perturbation, image = Enumeration(name, values), image_of(dtype)
    transformation = build(name)
    applied = perturbation.apply(image, perturbation.enumerated)
    for found, row in zip(applied, transformation.finite(values), strict=True):
        assert torch.equal(found, transformation(image.double()[None], row)[0].to(dtype))


def test_content_is_read_at_the_nearest_pixel_and_at_both_where_two_are():
    labels = torch.arange(12).expand(2, 9, 12) % 3
    moves = Enumeration('translation', [[0.4, 0.0], [0.5, 0.0]])
    mapped = moves.map_labels(labels, moves.enumerated)
    hits = moves.labels_for_hits(labels, moves.enumerated)
    assert torch.equal(mapped[0].long(), labels[0]) and torch.equal(hits[0], mapped[0])
    # Half a pixel to the right: the label of the pixel and of its neighbour, which differ.
    assert torch.equal(mapped[1, :, :-1].long(), labels[1, :, 1:])
    assert (hits[1] == -1).all()
    same = torch.full_like(labels, 2)
    assert (moves.labels_for_hits(same, moves.enumerated)[1, :, :-1] == 2).all()
    # The last column may have left the frame.
    assert (moves.labels_for_hits(same, moves.enumerated)[1, :, -1] == -1).all()


def test_numbers_of_any_kind_have_one_spec():
    expected = Enumeration('motion_blur', [[2, 0], [4, 45]]).spec()
    for values in (np.array([[2, 0], [4, 45]]), torch.tensor([[2, 0], [4, 45]]), ((2, 0), (4, 45))):
        assert Enumeration(build('motion_blur'), values).spec() == expected
    assert from_spec(expected).spec() == expected and 'Enumeration' in CLASSES


def test_training_draws_every_member_of_the_set():
    perturbation, image = Enumeration('brightness', [-0.1, 0.0, 0.1]), image_of()
    drawn = perturbation.draw(image, [torch.Generator().manual_seed(seed) for seed in range(60)])
    counts = [int((drawn[:, 0] == value).sum()) for value in (-0.1, 0.0, 0.1)]
    assert sum(counts) == 60 and min(counts) > 5


def test_the_guarantee_has_no_radius_and_no_threshold():
    perturbation = Enumeration('rotation', [-1, 1])
    values = perturbation.guarantee().to_dict()
    assert not {'radius', 'norm', 'unit', 'tau'} & values.keys()
    assert perturbation.guarantee(0.99) == perturbation.guarantee()
    assert values['attack_set'] == 'rotation with angle (degrees) in {-1, 1}'
    assert values['description'].startswith(
        'no rotation with angle (degrees) in {-1, 1} changes the class that the base model gives a '
        'certified component on the clean image, read at the pixel nearest to where its content '
        'has moved'
    )
    assert 'double precision' in values['rounding']
    assert values['operator'] == build('rotation').operator()
