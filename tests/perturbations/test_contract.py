"""What every registered perturbation promises to samplers, certificates and stored votes."""

import json
import math
import re
from dataclasses import fields

import pytest
import torch

from mmcert.perturbations import (
    CLASSES,
    AdditiveNoise,
    AxisRotation,
    BrightnessContrast,
    CoordinateNoise,
    CyclicTranslation,
    Enumeration,
    Exponential,
    FoldedNormal,
    GaussianBlur,
    GaussianNoise,
    Guarantee,
    LaplaceNoise,
    LogScale,
    PointNoise,
    PointTranslation,
    PooledNoise,
    Rotation3D,
    RotationScale,
    Shear,
    SurrogateTransform,
    Taper,
    TransformationCells,
    Twist,
    TwistRotation,
    Uniform,
    from_spec,
)
from mmcert.perturbations.parametric import ParametricTransformation
from mmcert.surrogates import Surrogate

TAUS = (0.5, 0.6, 0.75, 0.9, 0.99, 0.99999)


def surrogate(transformation, low, high):
    torch.manual_seed(0)
    small = dict(latent_channels=2, stride=4, width=8)
    return SurrogateTransform(Surrogate(transformation, low, high, **small), 0.5, 0.25)


TILTED = [2 / 3, -1 / 3, 2 / 3]
MEMBERS = [
    GaussianNoise(0.25),
    GaussianNoise(2.0),
    LaplaceNoise(0.2),
    GaussianBlur(Exponential(4.0)),
    GaussianBlur(Uniform(12.0, one_sided=True)),
    GaussianBlur(FoldedNormal(6.0)),
    BrightnessContrast(0.3, 0.3, (0.9, 1.1)),
    BrightnessContrast(0.1, 0.2),
    CyclicTranslation(3.0),
    Enumeration('defocus_blur', [0.7, 1.0, 1.5, 2.0, 2.5, 3.0]),
    Enumeration({'type': 'rotation', 'padding': 'zeros'}, [-5.0, -2.0, 1.0, 3.0, 8.0, 9.0]),
    PooledNoise(2, 0.25),
    TransformationCells('rotation', -4, 5, {'type': 'GaussianNoise', 'sigma': 0.25}),
    TransformationCells(
        {'type': 'scaling', 'padding': 'zeros'}, 0.9, 1.1, PooledNoise(2, 0.25), extra_radius=0.1
    ),
    TransformationCells('brightness', -0.1, 0.1, GaussianNoise(0.25), cells=3, pooled=False),
    surrogate('brightness', -0.3, 0.3),
    surrogate('rotation', -10.0, 10.0),
    surrogate({'type': 'translation', 'padding': 'cyclic'}, [-3.0, -3.0], [3.0, 3.0]),
    CoordinateNoise(0.1),
    AxisRotation(0.3, TILTED),
    AxisRotation(0.3, normals=True),
    Rotation3D(0.9),
    Rotation3D(0.5, normals=True),
    PointTranslation(0.7),
    LogScale(0.2),
    Shear(0.4),
    Shear(0.4, 'y', axis='x'),
    Twist(0.3, TILTED),
    Taper(0.5),
    TwistRotation(0.3, 0.2),
    RotationScale(0.3, 0.1, 'x', normals=True),
]


@pytest.fixture(params=MEMBERS, ids=repr)
def perturbation(request):
    return request.param


def generators(count, first=100):
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


def input_of(perturbation, dtype=torch.float32):
    source = torch.Generator().manual_seed(1)
    if perturbation.domain == 'image':
        return torch.rand(3, 11, 14, generator=source, dtype=dtype)
    return torch.randn(7, perturbation.num_columns, generator=source, dtype=dtype)


def labels_of(perturbation, x, count):
    """Label maps with edges for images, labels of points for clouds."""
    size = x.shape[1:] if perturbation.domain == 'image' else x.shape[:1]
    return torch.randint(0, 3, (1, *size), generator=torch.Generator().manual_seed(2)).repeat(
        count, *[1] * len(size)
    )


def assert_alike(found, expected, perturbation):
    if isinstance(perturbation, SurrogateTransform):  # The decoder rounds by the batch's size.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    else:
        assert torch.equal(found, expected)


def test_every_registered_perturbation_is_a_member():
    assert {type(member) for member in MEMBERS} == set(CLASSES.values())
    assert {name: cls.__name__ for name, cls in CLASSES.items()} == {name: name for name in CLASSES}


# Draws


def test_a_draw_depends_on_its_generator_and_the_shape_alone(perturbation):
    x = input_of(perturbation)
    parameters = perturbation.draw(x, generators(5))
    assert len(parameters) == 5 and parameters.is_floating_point()
    torch.rand(3)  # The global generator plays no part.
    for split in (1, 2, 5):
        parts = [
            perturbation.draw(x, generators(5)[first : first + split])
            for first in range(0, 5, split)
        ]
        assert torch.equal(torch.cat(parts), parameters)
    assert torch.equal(perturbation.draw(torch.zeros_like(x), generators(5)), parameters)
    assert not torch.equal(perturbation.draw(x, generators(5, 200)), parameters)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_perturbed_input_does_not_depend_on_its_batch(perturbation, dtype):
    x = input_of(perturbation, dtype)
    kept = x.clone()
    together = perturbation.apply(x, perturbation.draw(x, generators(5)))
    assert len(together) == 5 and torch.equal(x, kept)
    for found, generator in zip(together, generators(5), strict=True):
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
        assert found.isfinite().all()
        assert_alike(perturbation.sample(x, generator), found, perturbation)
    assert not torch.equal(together[0], together[1])
    # The order in memory does not matter.
    turned = x.movedim(0, -1).contiguous().movedim(-1, 0)
    again = perturbation.apply(turned, perturbation.draw(turned, generators(5)))
    assert_alike(again[3], together[3], perturbation)


def test_a_drawn_transformation_is_the_one_of_an_attacker_and_rounded(perturbation):
    if not isinstance(perturbation, ParametricTransformation):
        pytest.skip('it has no parameter that an attacker could choose')
    x = input_of(perturbation)
    parameters = perturbation.draw(x, generators(3))
    for found, parameter in zip(perturbation.apply(x, parameters), parameters, strict=True):
        exact = perturbation.transform(x.double(), parameter)
        steps = perturbation.points_per_unit
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1 / steps)
    identity = torch.zeros(perturbation.num_parameters)
    torch.testing.assert_close(perturbation.transform(x, identity), x)


# Labels


def test_labels_stay_unless_the_perturbation_moves_them(perturbation):
    x, count = input_of(perturbation), 6
    parameters = perturbation.draw(x, generators(count))
    labels = labels_of(perturbation, x, count)
    if perturbation.moves_labels:
        perturbation.apply(x, parameters)  # It leaves what the labels need.
    mapped = perturbation.map_labels(labels, parameters)
    hits = perturbation.labels_for_hits(labels, parameters)
    assert mapped.shape == hits.shape == labels.shape
    if not perturbation.moves_labels:
        assert torch.equal(mapped, labels) and torch.equal(hits, labels)
    # A hit asks for the same label, and perhaps for more.
    assert ((hits == mapped) | (hits == -1)).all()
    assert {-1, 0, 1, 2} >= set(hits.unique().tolist())
    if perturbation.selection_counts:
        assert torch.equal(hits, mapped) and not perturbation.has_partition


def test_a_partition_is_determined_by_the_input_and_the_number_of_draws(perturbation):
    x = input_of(perturbation)
    if not perturbation.has_partition:
        with pytest.raises(ValueError, match='has_partition is False'):
            perturbation.partition(x, 60)
        return
    partition, again = (perturbation.partition(x, 60) for _ in range(2))
    assert partition.digest == again.digest and partition.draws == 60
    parameters = perturbation.draw(x, generators(5))
    found = partition.apply(parameters.clone(), 20)
    for index, one in enumerate(found):
        assert (one.shape, one.dtype, one.device) == (x.shape, x.dtype, x.device)
        (alone,) = again.apply(parameters[index : index + 1].clone(), 20 + index)
        assert torch.equal(alone, one)
    assert (partition.table[1:] < partition.table[:-1]).all() and partition.table[0] == 1


# What a certificate says


def test_the_radius_grows_with_tau_and_falls_with_the_target(perturbation):
    radii = [perturbation.radius(tau) for tau in TAUS]
    if perturbation.has_partition:
        assert set(radii) == {perturbation.extra_radius}
        assert perturbation.radius(0.9, 0.6) == 0
        return
    assert radii[0] == 0 and radii == sorted(radii)
    # No threshold buys anything where nothing is drawn.
    assert radii[-1] > radii[2] >= 0 or perturbation.enumerated is not None
    for target in (0.6, 0.9):
        below = [perturbation.radius(tau, target) for tau in TAUS]
        assert all(less <= more for less, more in zip(below, radii, strict=True))
        assert all(radius == 0 for radius, tau in zip(below, TAUS, strict=True) if tau <= target)
    for bad in (0.3, 1.0, math.nan, '0.75'):
        with pytest.raises(ValueError, match='tau'):
            perturbation.radius(bad)
        with pytest.raises(ValueError, match='tau'):
            perturbation.radius(0.75, bad)


def test_the_guarantee_describes_itself_and_is_json(perturbation):
    guarantee = perturbation.guarantee(0.9)
    assert isinstance(guarantee, Guarantee)
    values = guarantee.to_dict()
    assert json.loads(json.dumps(values)) == values
    schema = {field.name for field in fields(Guarantee)} - {'claim', 'extra'} | {'description'}
    whole_sets = perturbation.enumerated is not None or perturbation.has_partition
    if whole_sets and not perturbation.radius(0.9):
        schema -= {'norm', 'radius', 'unit'}
    assert values.keys() == schema | set(guarantee.extra)
    assert {'type': values['perturbation'], **values['parameters']} == perturbation.spec()
    assert values.get('radius', 0.0) == perturbation.radius(0.9)
    assert values['moves_labels'] == perturbation.moves_labels
    assert all(isinstance(values[name], str) and values[name] for name in schema - {
        'parameters', 'radius', 'moves_labels'
    })  # fmt: skip
    assert values['description'] == guarantee.describe()
    assert values['stage'] in values['description']
    moved = 'where its content has moved' in values['description']
    assert moved == perturbation.moves_labels
    with pytest.raises(ValueError, match='extra must not repeat norm'):
        Guarantee(**{**vars(guarantee), 'extra': {'norm': 'l2'}})


def test_words_claim_no_larger_radius(perturbation):
    for tau in (0.6, 0.8, 0.9, 0.97, 0.99):
        found = perturbation.guarantee(tau)
        nearest = f'{found.radius or 0:.4g}'
        if float(nearest) > (found.radius or 0):
            assert not re.search(rf'\b{re.escape(nearest)}\b', found.claim), found.claim


def test_the_spec_rebuilds_the_perturbation(perturbation):
    spec = perturbation.spec()
    assert json.loads(json.dumps(spec)) == spec
    again = from_spec(spec)
    assert type(again) is type(perturbation)
    assert again.spec() == spec and repr(again) == repr(perturbation)
    assert again.guarantee(0.9) == perturbation.guarantee(0.9)
    if isinstance(perturbation, SurrogateTransform):
        return  # Its weights are not in the spec.
    x = input_of(perturbation)
    assert torch.equal(again.sample(x, generators(1)[0]), perturbation.sample(x, generators(1)[0]))
    written = {**vars(torch), **{cls.__name__: cls for cls in CLASSES.values()}}
    assert eval(repr(perturbation), written).spec() == spec


def test_an_input_of_another_kind_is_refused(perturbation):
    x = input_of(perturbation)
    perturbation.check(x)
    if perturbation.domain == 'image':
        bad = [x * 255, x - 50, x * math.nan, x[:, :0], (255 * x).to(torch.uint8)]
        if not isinstance(perturbation, AdditiveNoise):  # Noise takes any shape.
            bad.append(x[0])
    elif isinstance(perturbation, PointNoise):
        bad = [x / 1000, x[:0], x * math.nan]
    else:
        bad = [x[:, :2], x[0], x.long()]
    for refused in bad:
        with pytest.raises(ValueError, match=r'image|cloud|shape|floating point'):
            perturbation.check(refused)


@pytest.mark.usefixtures('openmmlab')
def test_configs_name_the_perturbation(perturbation):
    if isinstance(perturbation, SurrogateTransform):
        pytest.skip('a config names the file of its weights')
    import mmcert.engine  # noqa: F401 (registers them)
    from mmcert.registry import PERTURBATIONS

    spec = perturbation.spec()
    spec['type'] = f'mmcert.{spec["type"]}'
    built = PERTURBATIONS.build({**spec, '_scope_': 'mmcert'})
    assert repr(built) == repr(perturbation)
