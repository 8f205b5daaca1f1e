"""Displacements of latents: against dense algebra, closed forms, and the modes of a supremum."""

import math

import numpy as np
import pytest
import torch

from mmcert.surrogates import (
    AttackSet,
    Displacement,
    Surrogate,
    build_attack_set,
)
from mmcert.surrogates import displacement as module
from mmcert.surrogates.displacement import (
    ABSOLUTE_MARGIN,
    RELATIVE_MARGIN,
    TOLERANCE,
    mahalanobis_norm,
    split_norm,
)
from mmcert.transformations import Brightness, Parameter, Transformation, build

SIZE = (12, 20)


class Steady(Brightness):
    """Brightness with the constant that it evidently has."""

    def lipschitz(self, images, low, high):
        return torch.full((len(images),), math.sqrt(images[0].numel()), dtype=torch.float64)


class Wave(Transformation):
    """x + sin(20 xi)^3 / 5 on the left half: between few samples it hides."""

    name = 'wave'
    parameters = (Parameter('phase', 'image', -10, 10, 0),)
    definition = 'x + sin(20 phase)^3 / 5 on the left half'
    severities = ((1,),) * 5

    def transform(self, images, parameters):
        half = torch.ones_like(images)
        half[..., images.shape[-1] // 2 :] = 0
        height = torch.sin(20 * parameters[:, 0]) ** 3 / 5
        return images + half * height.to(images.dtype)[:, None, None, None]

    def lipschitz(self, images, low, high):
        values = images[0].numel() * (images.shape[-1] // 2) / images.shape[-1]
        return torch.full((len(images),), 20 * 3 / 5 * math.sqrt(values), dtype=torch.float64)


class Root(Brightness):
    """Its derivative at 0 is infinite."""

    def transform(self, images, parameters):
        return images + parameters[:, 0, None, None, None].sqrt().to(images.dtype)

    def lipschitz(self, images, low, high):
        return torch.full((len(images),), math.nan)


class Overflow(Brightness):
    """Divides by 0 at 0.2."""

    def transform(self, images, parameters):
        return images / (parameters[:, 0, None, None, None] != 0.2)


def make(transformation='brightness', low=-0.3, high=0.3, seed=0, **sizes):
    torch.manual_seed(seed)
    sizes = {'channels': 2, 'latent_channels': 5, 'stride': 4, 'width': 8, **sizes}
    return Surrogate(transformation, low, high, **sizes)


def image(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape or (2, *SIZE), generator=generator)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def column(*values):
    return numbers(*values)[:, None]


def covariance(matrix, places, sigma1, sigma2):
    """Of the whole latent, channels first."""
    stacked = torch.kron(matrix, torch.ones(places, 1, dtype=torch.float64))
    return sigma1**2 * stacked @ stacked.T + sigma2**2 * torch.eye(len(stacked)).double()


# The two norms


@pytest.mark.parametrize('width', [1, 2, 7])
@pytest.mark.parametrize('scales', [(0.5, 0.25), (1.0, 1e-3), (1e-3, 1.0), (30.0, 0.1)])
def test_the_mahalanobis_norm_is_that_of_the_dense_covariance(width, scales):
    torch.manual_seed(width)
    matrix, delta = torch.randn(5, width).double(), torch.randn(6, 5, 3, 4).double()
    delta[1] = (matrix @ torch.randn(width).double())[:, None, None]
    delta[2] = 0
    flat = delta.flatten(1)
    dense = covariance(matrix, 12, *scales)
    expected = (flat * torch.linalg.solve(dense, flat.T).T).sum(1).clamp_min(0).sqrt()
    found = mahalanobis_norm(delta, matrix, *scales)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert found[2] == 0


def test_the_mahalanobis_norm_does_not_cancel_where_the_parameter_absorbs_everything():
    # D(delta = A1 u) = |A1| sqrt(N) |u| / sqrt(sigma1^2 |A1|^2 N + sigma2^2).
    matrix, places = numbers([300.0], [400.0]), 10_000
    for sigma2 in (1.0, 1e-2, 1e-4, 1e-6):
        delta = (matrix[None, :, :, None] * 0.7).expand(1, 2, 100, 100)
        norm = 500 * math.sqrt(places)
        expected = norm * 0.7 / math.sqrt(0.25 * norm**2 + sigma2**2)
        found = mahalanobis_norm(delta, matrix, 0.5, sigma2)
        assert found.item() == pytest.approx(expected, rel=1e-4)
        assert found.item() >= expected * (1 - 1e-9)


def test_a_parameter_encoder_of_zeros_absorbs_nothing():
    delta = torch.randn(3, 5, 2, 2).double()
    found = mahalanobis_norm(delta, torch.zeros(5, 2).double(), 0.5, 0.25)
    torch.testing.assert_close(found, delta.flatten(1).norm(dim=1) / 0.25)


def test_the_split_norm_is_that_of_parameter_and_latent_together():
    torch.manual_seed(0)
    matrix, delta, u = (torch.randn(*s).double() for s in ((5, 2), (4, 5, 2, 3), (4, 2)))
    stacked = torch.kron(matrix, torch.ones(6, 1, dtype=torch.float64))
    rest = delta.flatten(1) - u @ stacked.T
    joint = torch.cat([u, rest], dim=1)
    law = torch.diag(torch.tensor([0.5**2] * 2 + [0.25**2] * 30, dtype=torch.float64))
    expected = (joint * torch.linalg.solve(law, joint.T).T).sum(1).sqrt()
    found = split_norm(delta, u, matrix, 0.5, 0.25)
    torch.testing.assert_close(found, expected)
    # Where theta also moves the labels, it cannot absorb what it likes.
    assert (found >= mahalanobis_norm(delta, matrix, 0.5, 0.25)).all()


def test_both_norms_match_the_vectors(vectors):
    checked = 0
    for vector in vectors['D_gsmooth']:
        inputs, expected = vector['inputs'], vector['expected']
        if 'M_mahalanobis' in expected:
            matrix = numbers(*inputs['A1'])
            moves = matrix
            if 'J' in expected:
                moves = numbers(expected['J']).T
            elif 'B' in inputs:
                moves = numbers(*inputs['B']) @ matrix
            angle = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
            units = torch.stack([angle.cos(), angle.sin()], 1)
            units = units if matrix.shape[1] == 2 else torch.ones(1, 1, dtype=torch.float64)
            delta = (units @ moves.T)[..., None, None]
            scales = inputs['sigma1'], inputs['sigma2']
            found = split_norm(delta, units, matrix, *scales).max().item()
            assert found == pytest.approx(expected['M'], rel=1e-7)
            found = mahalanobis_norm(delta, matrix, *scales).max().item()
            assert found == pytest.approx(expected['M_mahalanobis'], rel=1e-7)
        elif 'residual' in inputs:
            u, matrix = numbers([inputs['xi']]), numbers([1.0])
            delta = (u + inputs['residual'])[..., None, None]
            found = split_norm(delta, u, matrix, inputs['sigma1'], inputs['sigma2']).item()
            assert found == pytest.approx(expected['D'], rel=1e-9)
        else:
            continue
        checked += 1
    assert checked == 4


# Surrogates whose supremum is known


def covered_taps(surrogate, height, width):
    """Sum of the kernel's taps that lie within the image, by places, shape (L, h, w)."""
    kernel = surrogate.image_encoder.layers[0].weight.detach().double().numpy().sum(axis=1)
    step = surrogate.stride
    sums = np.zeros((len(kernel), -(-height // step), -(-width // step)))
    for i, j in np.ndindex(sums.shape[1:]):
        for y, x in np.ndindex(kernel.shape[1:]):
            if 0 <= i * step - step // 2 + y < height and 0 <= j * step - step // 2 + x < width:
                sums[:, i, j] += kernel[:, y, x]
    return torch.from_numpy(sums)


@pytest.mark.parametrize('size', [SIZE, (13, 7), (3, 2)])
def test_a_shift_of_brightness_moves_each_place_by_the_sum_of_its_taps(size):
    surrogate = make()
    taps = covered_taps(surrogate, *size)
    dense = covariance(surrogate.matrix(), taps[0].numel(), 0.5, 0.25)
    per_unit = math.sqrt(taps.flatten() @ torch.linalg.solve(dense, taps.flatten()))
    values = column(-0.3, -0.1, 0.0, 0.2, 0.3)
    found = Displacement(surrogate, 0.5, 0.25)(image(2, *size), values)
    torch.testing.assert_close(found, values[:, 0].abs() * per_unit, rtol=1e-9, atol=1e-12)


def even(direction, transformation='brightness', **ends):
    """A linear encoder that reads the mean of each square alone, with A1 = (3, 4, 0, 0, 0)."""
    surrogate = make(transformation, **ends)
    kernel = torch.zeros(5, 2, 8, 8)
    kernel[:, :, 2:6, 2:6] = torch.tensor(direction)[:, None, None, None] / 32
    surrogate.image_encoder.layers[0].weight.data = kernel
    surrogate.parameter_encoder.weight.data = torch.tensor([3.0, 4.0, 0, 0, 0])[:, None]
    return surrogate


ALONG, ACROSS = [6.0, 8.0, 0, 0, 0], [0.0, 0, 10.0, 0, 0]
PLACES = 15
PER_UNIT = {
    'along': 10 * math.sqrt(PLACES) / math.sqrt(0.5**2 * 25 * PLACES + 0.25**2),
    'across': 10 * math.sqrt(PLACES) / 0.25,
}


@pytest.mark.parametrize('case', ['along', 'across'])
def test_a_finite_set_has_its_largest_displacement(case):
    surrogate = even({'along': ALONG, 'across': ACROSS}[case])
    displacement = Displacement(surrogate, 0.5, 0.25)
    attack = build_attack_set(dict(values=[0.1, -0.25, 0.2]), surrogate.transformation)
    found = displacement.supremum(image(), attack)
    exact = 0.25 * PER_UNIT[case]
    assert found.found == pytest.approx(exact, rel=1e-9)
    assert found.worst == (-0.25,) and found.looked_at == 3
    assert found.value == pytest.approx(exact * (1 + RELATIVE_MARGIN) + ABSOLUTE_MARGIN)
    assert attack.kind == 'certificate'


@pytest.mark.parametrize('case', ['along', 'across'])
def test_an_interval_is_bounded_from_above_and_closely(case):
    surrogate = even({'along': ALONG, 'across': ACROSS}[case], Steady())
    attack = build_attack_set(
        dict(range=(-0.1, 0.3), mode='lipschitz', points=2000), surrogate.transformation
    )
    found = Displacement(surrogate, 0.5, 0.25).supremum(image(), attack)
    exact = 0.3 * PER_UNIT[case]
    assert found.found == pytest.approx(exact) and found.worst == (0.3,)
    assert exact < found.value <= (exact * (1 + TOLERANCE)) * (1 + 2e-4) + 2e-4
    assert found.looked_at < 2000 and attack.kind == 'certificate'


def test_what_lies_between_the_points_is_bounded():
    # Of 3 evenly spaced points of [0, pi / 10] each is a zero of the wave.
    ends = (0.0, math.pi / 10)
    surrogate = make(Wave(), 0, 2)
    displacement = Displacement(surrogate, 0.5, 0.25)
    few = build_attack_set(dict(range=ends, mode='sampled', points=3), surrogate.transformation)
    found = displacement.supremum(image(), few)
    assert found.found < 1e-9 and few.kind == 'estimate'
    dense = torch.linspace(*ends, 1001, dtype=torch.float64)[:, None]
    largest = displacement(image(), dense).max().item()
    assert largest > 0.1
    for points in (2, 3, 12, 100, 1500):
        attack = build_attack_set(
            dict(range=ends, mode='lipschitz', points=points), surrogate.transformation
        )
        bounded = displacement.supremum(image(), attack)
        assert bounded.value >= largest and bounded.looked_at <= points
        assert bounded.found <= bounded.value
    assert bounded.value <= bounded.found * (1 + TOLERANCE) * (1 + 2e-4) + 2e-4


def test_two_points_are_joined_by_the_constants():
    surrogate = make(Steady(), hidden=(4,))
    displacement = Displacement(surrogate, 0.5, 0.125)
    at = displacement(image(), column(-0.1, 0.3)).sum().item()
    steepest = surrogate.image_encoder.lipschitz() * math.sqrt(image().numel()) / 0.125
    bound = (at + 0.4 * steepest) / 2
    found = displacement.supremum(image(), AttackSet('lipschitz', column(-0.1, 0.3), 2)).value
    assert found == pytest.approx(bound * (1 + RELATIVE_MARGIN) + ABSOLUTE_MARGIN)


@pytest.mark.parametrize(
    ('name', 'low', 'high'),
    [
        ('brightness', -0.2, 0.3),
        ('contrast', -0.5, 0.4),
        ('gaussian_blur', 0.1, 4),
        ('defocus_blur', 0.4, 2.5),
        ('rotational_blur', 0, 5),
        ('zoom_blur', 1, 1.2),
    ],
)
def test_the_constants_of_the_transformations_bound_what_lies_between(name, low, high):
    surrogate = make(name, low, high)
    displacement = Displacement(surrogate, 0.5, 0.25)
    dense = torch.linspace(low, high, 301, dtype=torch.float64)[:, None]
    largest = displacement(image(), dense).max().item()
    for points in (2, 9, 40):
        attack = dict(range=(low, high), mode='lipschitz', points=points)
        attack = build_attack_set(attack, surrogate.transformation)
        assert displacement.supremum(image(), attack).value >= largest


@pytest.mark.parametrize(
    ('name', 'low', 'high'), [('brightness', -0.2, 0.3), ('contrast', -0.5, 0.4)]
)
def test_along_a_straight_line_the_ends_are_the_supremum(name, low, high):
    surrogate = make(name, low, high)
    displacement = Displacement(surrogate, 0.5, 0.25)
    attack = AttackSet('lipschitz', column(low, high), 400)
    found = displacement.supremum(image(), attack)
    dense = torch.linspace(low, high, 301, dtype=torch.float64)[:, None]
    assert (found.looked_at, found.by) == (2, 'convex')
    assert found.found == pytest.approx(displacement(image(), dense).max().item())
    # Not of an encoder that bends, nor of another transformation by that name.
    bent = Displacement(make(name, low, high, hidden=(4,)), 0.5, 0.25)
    bounded = bent.supremum(image(), attack)
    assert bounded.looked_at > 2 and bounded.by == 'lipschitz'
    assert not Root().straight and Steady().straight and not build('gaussian_blur').straight


def test_more_points_never_loosen_the_bound():
    surrogate = make(Wave(), 0, 2)
    displacement, bounds = Displacement(surrogate, 0.5, 0.25), []
    for points in (2, 5, 17, 65, 257):
        attack = AttackSet('lipschitz', column(0.1, 1.3), points)
        bounds.append(displacement.supremum(image(), attack).value)
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] < bounds[0] / 2


def test_a_sampled_range_is_looked_at_on_a_grid():
    surrogate = even(ACROSS)
    attack = build_attack_set(dict(range=(-0.3, 0.1), mode='sampled', points=5), Brightness())
    found = Displacement(surrogate, 0.5, 0.25).supremum(image(), attack)
    assert found.looked_at == 5 and found.worst == (-0.3,)
    assert found.found == pytest.approx(0.3 * PER_UNIT['across'])
    both = make('translation', [-2, -2], [2, 2])
    attack = build_attack_set(
        dict(range=[(-1, 1), (0, 2)], mode='sampled', points=10), both.transformation
    )
    assert Displacement(both, 0.5, 0.25).supremum(image(), attack).looked_at == 9


def test_what_moves_labels_pays_for_the_parameter_as_well():
    surrogate = make('rotation', -10, 20)
    displacement = Displacement(surrogate, 0.5, 0.25)
    values, matrix = column(-10.0, 5.0, 0.0), surrogate.matrix()
    encoder = displacement.encoder
    x = image().double()[None]
    for value, found in zip(values, displacement(image(), values), strict=True):
        moved = surrogate.transformation(x, value[None])
        rest = encoder(moved) - encoder(x) - (matrix @ (value / 20))[:, None, None]
        expected = math.sqrt((value.item() / 20 / 0.5) ** 2 + rest.norm().item() ** 2 / 0.25**2)
        assert found.item() == pytest.approx(expected, abs=1e-9)


def test_content_moves_by_its_distance_from_the_identity_not_from_the_anchor():
    # A range that begins at 5 degrees: an attack of 5 still moves the content by 5.
    surrogate = make('rotation', 5, 25)
    surrogate.image_encoder.layers[0].weight.data.zero_()
    surrogate.parameter_encoder.weight.data.zero_()
    found = Displacement(surrogate, 0.5, 0.25)(image(), column(5.0, 25.0))
    torch.testing.assert_close(found, numbers(5 / 20 / 0.5, 25 / 20 / 0.5))


# Precision


@pytest.mark.parametrize('hidden', [(), (16,)])
@pytest.mark.parametrize('gain', [1.0, 10.0])
def test_latents_in_single_precision_stay_within_the_margin(hidden, gain):
    surrogate = make(channels=3, latent_channels=16, stride=8, hidden=hidden, seed=3)
    for parameter in surrogate.image_encoder.parameters():
        parameter.data *= gain ** (1 / (1 + len(hidden)))
    clean = image(3, 64, 96)
    displacement = Displacement(surrogate, 0.5, 0.25)
    latent = displacement.latent(clean)
    for value in (0.01, 0.3):
        attacked = clean + value
        exact = displacement(clean, column(value)).item()
        moved = displacement.latent(attacked).float() - latent.float()
        found = mahalanobis_norm(moved.double()[None], displacement.matrix, 0.5, 0.25).item()
        margin = exact * RELATIVE_MARGIN + ABSOLUTE_MARGIN
        assert abs(found - exact) < margin / 5


def test_the_encoder_is_a_copy_in_double_precision():
    surrogate = make()
    displacement = Displacement(surrogate, 0.5, 0.25)
    before = displacement(image(), column(0.2))
    surrogate.image_encoder.layers[0].weight.data *= 2
    assert torch.equal(displacement(image(), column(0.2)), before)
    assert before.dtype == torch.float64
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(displacement(image(), column(0.2)), before)
        assert displacement.latent(image()).dtype == torch.float64


def test_chunks_do_not_matter(monkeypatch):
    displacement, values = Displacement(make(), 0.5, 0.25), column(*np.linspace(-0.3, 0.3, 11))
    found = displacement(image(), values)
    monkeypatch.setattr(module, 'CHUNK', 3)
    torch.testing.assert_close(displacement(image(), values), found)


# The coefficient of the paper


def test_the_coefficient_of_the_paper_in_closed_form():
    # dF2/du = 0.3 (6, 8, 0, 0, 0) at each of 15 places, A1 = (3, 4, 0, 0, 0).
    surrogate = even(ALONG)
    found = Displacement(surrogate, 0.5, 0.25).paper_coefficient(image(), column(-0.1, 0.3))
    residual = abs(0.3 * 10 - 5) * math.sqrt(PLACES)
    assert found == pytest.approx(math.sqrt(1 / 0.5**2 + (residual / 0.25) ** 2))
    # An exactly resolvable one has 1 / sigma1.
    surrogate.parameter_encoder.weight.data = torch.tensor([1.8, 2.4, 0, 0, 0])[:, None]
    found = Displacement(surrogate, 0.5, 0.25).paper_coefficient(image(), column(0.1))
    assert found == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(
    ('name', 'low', 'high', 'at'),
    [
        ('contrast', -0.5, 0.4, [0.13]),
        ('gaussian_blur', 0, 4, [1.3]),
        ('rotation', -10, 20, [3.3]),
        ('translation', [-2, -1], [1, 3], [0.4, 1.7]),
        ('motion_blur', [0, 0], [6, 90], [4.3, 31]),
    ],
)
def test_the_coefficient_of_the_paper_by_differences(name, low, high, at):
    surrogate = make(name, low, high, hidden=(4,))
    x, step, columns = image(), 1e-6, []
    displacement = Displacement(surrogate, 0.5, 0.25)
    transformation = surrogate.transformation

    def latent(values):
        return displacement.encoder(transformation(x.double()[None], values[None]))[0]

    for index in range(len(at)):
        move = torch.zeros(len(at), dtype=torch.float64)
        move[index] = step * surrogate.scale[index]
        difference = (latent(numbers(*at) + move) - latent(numbers(*at) - move)) / (2 * step)
        columns.append((difference - surrogate.matrix()[:, index, None, None]).flatten())
    norm = torch.linalg.matrix_norm(torch.stack(columns, 1), 2).item()
    found = Displacement(surrogate, 0.5, 0.25).paper_coefficient(x, numbers(at))
    assert found == pytest.approx(math.sqrt(4 + (norm / 0.25) ** 2), rel=1e-5)
    more = Displacement(surrogate, 0.5, 0.25).paper_coefficient(
        x, numbers(at, surrogate.low.tolist())
    )
    assert more >= found - 1e-9


def test_where_there_is_no_derivative_there_is_no_coefficient():
    for name, low, high in (('pixelate', 1, 4), ('jpeg', 20, 90)):
        surrogate = make(name, low, high, channels=3)
        values = surrogate.transformation.grid(low, high, 2)
        assert Displacement(surrogate, 0.5, 0.25).paper_coefficient(image(3, 8, 8), values) is None
    surrogate = make(Root(), 0, 0.3)
    assert Displacement(surrogate, 0.5, 0.25).paper_coefficient(image(), column(0.1, 0.2)) > 2
    assert Displacement(surrogate, 0.5, 0.25).paper_coefficient(image(), column(0.1, 0.0)) is None


# What is refused


@pytest.mark.parametrize(
    ('attack', 'message'),
    [
        (dict(values=[]), 'needs at least one parameter'),
        (dict(values=[0.1, 2]), r'shift must lie in \[-1, 1\].*got 2'),
        (dict(values=[math.nan]), 'shift must lie in'),
        (dict(values=[[0.1, 0.2]]), 'takes parameters of shape'),
        (dict(values=[0.1], transformation='contrast'), 'the attack is contrast, but.*brightness'),
        (dict(values=[0.1], transformation=dict(type='jpeg')), 'the attack is jpeg'),
        (dict(values=[0.1], value=1), 'either values or range'),
        (dict(values=[0.1], range=(0, 1), mode='sampled'), 'either values or range'),
        (dict(mode='finite'), 'either values or range'),
        (dict(range=(0, 0.1)), "needs mode='lipschitz' .*got mode=None"),
        (dict(range=(0, 0.1), mode='finite'), "got mode='finite'"),
        (dict(range=(0, 0.1), mode='grid'), "got mode='grid'"),
        (dict(values=[0.1], mode='sampled'), "got mode='sampled'"),
        (dict(values=[0.1], points=7), 'points belong to a range'),
        (dict(range=(0.2, 0.1), mode='sampled'), 'low <= high'),
        (dict(range=(0, 0.1, 0.2), mode='sampled'), '1 pairs low <= high'),
        (dict(range=(0, 0.1), mode='lipschitz', points=1), 'points must be an integer'),
        (dict(range=(0, 0.1), mode='lipschitz', points=True), 'points must be an integer'),
        ([0.1], 'an attack set is a dict'),
    ],
)
def test_attack_sets_that_are_none_are_refused(attack, message):
    with pytest.raises(ValueError, match=message):
        build_attack_set(attack, Brightness())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('range', column(0.0, 0.3), 10), "mode must be one of finite.*got 'range'"),
        (('finite', torch.zeros(0, 1), 0), r'finite parameters of shape \(N, P\)'),
        (('finite', numbers(0.1), 0), r'finite parameters of shape \(N, P\)'),
        (('finite', column(math.nan), 0), 'finite parameters'),
        (('sampled', column(0.1, 0.2, 0.3), 10), 'takes a range low <= high'),
        (('lipschitz', column(0.3, 0.1), 10), 'takes a range low <= high'),
        (('lipschitz', numbers([0.0, 0.0], [1.0, 1.0]), 10), 'takes one parameter, got 2'),
        (('lipschitz', column(0.1, 0.3), 1), 'points must be an integer'),
    ],
)
def test_attack_sets_made_by_hand_are_checked_as_well(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttackSet(*arguments)


def test_attack_sets_cannot_be_changed_from_outside():
    values = np.array([0.1, 0.2])
    attack = build_attack_set(dict(values=values), Brightness())
    values[:] = 0.3
    assert attack.values.flatten().tolist() == [0.1, 0.2]
    assert build_attack_set(attack, Brightness()) is attack
    with pytest.raises(ValueError, match='the attack is brightness'):
        build_attack_set(attack, build('jpeg'))
    zero = build_attack_set(dict(values=[0.1]), build(dict(type='contrast', pivot='zero')))
    with pytest.raises(ValueError, match="the attack is {.*'zero'}, but.* made for {.*'mean'}"):
        build_attack_set(zero, build('contrast'))
    with pytest.raises(ValueError, match='the attack is contrast'):
        Displacement(make(), 0.5, 0.25).supremum(image(), zero)
    with pytest.raises(ValueError, match='quality must lie in'):
        build_attack_set(AttackSet('finite', attack.values, 0), build('jpeg'))


def test_attack_sets_in_words_say_the_numbers_in_full():
    exact = build_attack_set(dict(values=[0.123456789, 1 / 4]), Brightness())
    assert exact.describe(Brightness()) == 'brightness with shift (image) in {0.123456789, 0.25}'
    assert exact.spec() == {'mode': 'finite', 'values': [0.123456789, 0.25]}
    attack = build_attack_set(dict(range=(0, 0.1), mode='sampled'), Brightness())
    assert attack.describe(Brightness()) == 'brightness with shift (image) in [0, 0.1]'
    assert attack.spec() == {'mode': 'sampled', 'range': [[0, 0.1]], 'points': 50}
    both = build_attack_set(dict(values=[(1, 2), (-1, 0)]), build('translation'))
    quality = build_attack_set(dict(values=[80, 60]), build('jpeg'))
    assert quality.describe(build('jpeg')) == 'jpeg with quality in {80, 60}'
    assert both.describe(build('translation')) == (
        'translation with dx (px), dy (px) in {(1, 2), (-1, 0)}'
    )
    for attack_set, transformation in ((exact, Brightness()), (both, build('translation'))):
        again = build_attack_set(attack_set.spec(), transformation)
        assert torch.equal(again.values, attack_set.values)


def test_the_lipschitz_mode_needs_a_constant_and_labels_that_stay():
    attack = AttackSet('lipschitz', column(20.0, 90.0), 10)
    with pytest.raises(ValueError, match='jpeg has no proven Lipschitz constant'):
        surrogate = make('jpeg', 20, 90, channels=3)
        Displacement(surrogate, 0.5, 0.25).supremum(image(3, 8, 8), attack)
    attack = AttackSet('lipschitz', column(0.0, 0.2), 10)
    with pytest.raises(ValueError, match=r'Lipschitz constant nan on \[0.0, 0.2\]'):
        Displacement(make(Root(), 0, 0.3), 0.5, 0.25).supremum(image(), attack)
    attack = AttackSet('lipschitz', column(-5.0, 5.0), 10)
    with pytest.raises(ValueError, match='leave labels in place'):
        Displacement(make('rotation', -5, 5), 0.5, 0.25).supremum(image(), attack)


def test_displacements_that_are_none_are_refused():
    displacement = Displacement(make(), 0.5, 0.25)
    with pytest.raises(ValueError, match=r'from \[-0.3\] to \[0.3\], got \[0.5\]'):
        displacement(image(), column(0.1, 0.5))
    for scales in ((0, 0.25), (0.5, 0), (0.5, -1), (math.nan, 0.25), (0.5, math.inf)):
        with pytest.raises(ValueError, match='must be positive and finite'):
            Displacement(make(), *scales)
    curved = make()
    curved.parameter_encoder = torch.nn.Sequential(curved.parameter_encoder, torch.nn.Tanh())
    with pytest.raises(ValueError, match='linear F1'):
        Displacement(curved, 0.5, 0.25)


def test_a_displacement_that_is_no_number_is_refused():
    # NaN compares as nothing: it must not end as a small threshold.
    x = image()
    x[0, 0, 0] = 0
    surrogate = make(Overflow())
    with pytest.raises(ValueError, match=r'brightness at \[0.2\] moves the latent by nan'):
        Displacement(surrogate, 0.5, 0.25)(x, column(0.1, 0.2))
    surrogate = make()
    surrogate.image_encoder.layers[0].weight.data[0] = math.inf
    with pytest.raises(ValueError, match='overflows'):
        Displacement(surrogate, 0.5, 0.25)(x, column(0.1))
