"""Perturbations of point clouds: laws, composition, attacks at the edge of the radius."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.transform import Rotation
from scipy.special import ndtr, ndtri

from mmcert.certify import certify
from mmcert.certify.rounding import AtMost
from mmcert.perturbations import (
    AxisRotation,
    CoordinateNoise,
    LogScale,
    PointTranslation,
    Rotation3D,
    RotationScale,
    Shear,
    Taper,
    Twist,
    TwistRotation,
    worst_sets,
)
from mmcert.perturbations.base import LARGEST_TAU
from mmcert.perturbations.worst_sets import kept_by_rotation, shared_by_balls
from mmcert.sampling import SamplingSettings, collect_votes

TILTED = [2 / 3, -1 / 3, 2 / 3]

# Landmarks from which the parameter of a transformation can be read, in the frame of its axis:
# the origin, a point at height 0, one at height 1, and the tip of the axis.
LANDMARKS = torch.tensor(
    [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]], dtype=torch.float64
)  # fmt: skip


def polar_angle(point):
    return torch.atan2(point[1], point[0])


# Each perturbation with the way to read its parameter from the transformed landmarks.
ADDITIVE = [
    (AxisRotation(0.3), lambda p: [polar_angle(p[1])]),
    (AxisRotation(0.3, TILTED), lambda p: [polar_angle(p[1])]),
    (PointTranslation(0.7), lambda p: [*p[0]]),
    (LogScale(0.2), lambda p: [p[1].norm().log()]),
    (Shear(0.4), lambda p: [p[3][0], p[3][1]]),
    (Shear(0.4, 'y'), lambda p: [p[3][1]]),
    (Twist(0.3), lambda p: [polar_angle(p[2])]),
    (Twist(0.3, TILTED), lambda p: [polar_angle(p[2])]),
    (Taper(0.5), lambda p: [p[2][:2].norm().log()]),
    (Taper(0.5, TILTED), lambda p: [p[2][:2].norm().log()]),
    (TwistRotation(0.3, 0.2), lambda p: [polar_angle(p[2]) - polar_angle(p[1]), polar_angle(p[1])]),
    (RotationScale(0.3, 0.1), lambda p: [polar_angle(p[1]), p[1].norm().log()]),
]
TRANSFORMATIONS = [perturbation for perturbation, _ in ADDITIVE]
ROTATING = [
    AxisRotation(0.3, TILTED, True),
    Rotation3D(0.5, True),
    RotationScale(0.3, 0.1, 'x', True),
]
ALL = [CoordinateNoise(0.1), Rotation3D(0.5), *TRANSFORMATIONS, *ROTATING]


def frame(perturbation):
    """Rows are the images of x, y, z in a frame whose z is the axis of the perturbation."""
    axis = getattr(perturbation, 'axis', 'z')
    if axis == 'z':
        return torch.eye(3, dtype=torch.float64)
    return torch.from_numpy(Rotation.align_vectors([axis], [[0, 0, 1]])[0].as_matrix().T)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generators(count):
    return [generator(seed) for seed in range(count)]


def cloud(points=7, columns=3, seed=1, dtype=torch.float64):
    return torch.randn(points, columns, generator=generator(seed), dtype=dtype)


@pytest.fixture(params=ALL, ids=repr)
def perturbation(request):
    return request.param


@pytest.fixture(params=TRANSFORMATIONS, ids=repr)
def additive(request):
    return request.param


@settings(max_examples=200, deadline=None)
@given(
    index=st.integers(0, len(TRANSFORMATIONS) - 1),
    seed=st.integers(0, 1000),
    entries=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
)
def test_the_transformations_compose_additively(index, seed, entries):
    perturbation, x = TRANSFORMATIONS[index], cloud(seed=seed)
    count = perturbation.num_parameters
    a, b = torch.tensor(entries[:count]).double(), torch.tensor(entries[3 : 3 + count]).double()
    twice = perturbation.transform(perturbation.transform(x, b), a)
    torch.testing.assert_close(twice, perturbation.transform(x, a + b), rtol=1e-9, atol=1e-9)


def test_the_identity_and_the_input_are_kept(additive):
    x = cloud()
    kept = x.clone()
    torch.testing.assert_close(additive.transform(x, torch.zeros(additive.num_parameters)), x)
    additive.sample(x, generator())
    assert torch.equal(x, kept)


@settings(max_examples=50, deadline=None)
@given(
    v=st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3),
    w=st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3),
)
def test_rotations_about_any_axis_compose_as_a_group(v, w):
    x, noise = cloud(columns=6), Rotation3D(1.0, normals=True)
    both = Rotation.from_rotvec(v) * Rotation.from_rotvec(w)
    found = noise.transform(noise.transform(x, torch.tensor(w)), torch.tensor(v))
    expected = [both.apply(part.numpy()) for part in x.split(3, dim=1)]
    np.testing.assert_allclose(found.numpy(), np.concatenate(expected, axis=1), atol=1e-6)


@pytest.mark.parametrize('angle', [-2.0, 0.3])
def test_rotations_and_deformations_are_what_they_say(angle):
    x = cloud()
    heights = x.numpy() @ TILTED
    parameter = torch.tensor([angle], dtype=torch.float64)

    def rotated(angles):
        return Rotation.from_rotvec(np.outer(angles, TILTED)).apply(x.numpy())

    whole = AxisRotation(1.0, TILTED).transform(x, parameter)
    np.testing.assert_allclose(whole.numpy(), rotated(np.full(7, angle)), atol=1e-12)
    twisted = Twist(1.0, TILTED).transform(x, parameter)
    np.testing.assert_allclose(twisted.numpy(), rotated(angle * heights), atol=1e-12)
    both = TwistRotation(1.0, 1.0, TILTED).transform(x, torch.tensor([angle, 0.5]).double())
    np.testing.assert_allclose(both.numpy(), rotated(angle * heights + 0.5), atol=1e-7)

    factor = np.exp(angle * x.numpy()[:, 2:])
    tapered = Taper(1.0).transform(x, parameter).numpy()
    np.testing.assert_allclose(tapered[:, :2], x.numpy()[:, :2] * factor)
    np.testing.assert_array_equal(tapered[:, 2], x.numpy()[:, 2])
    sheared = Shear(1.0, 'z', axis='x').transform(x, parameter).numpy()
    expected = x.numpy() + angle * np.outer(x.numpy()[:, 0], [0, 0, 1])
    np.testing.assert_allclose(sheared, expected)


def test_normals_rotate_and_do_not_scale():
    x = cloud(columns=6)
    angle = torch.tensor([0.4])
    alone = AxisRotation(0.3, 'x').transform(x[:, 3:], angle)
    torch.testing.assert_close(AxisRotation(0.3, 'x', True).transform(x, angle)[:, 3:], alone)
    both = RotationScale(0.3, 0.1, 'x', True).transform(x, torch.tensor([0.4, 1.0]))
    torch.testing.assert_close(both[:, 3:], alone)
    torch.testing.assert_close(
        both[:, :3], math.e * AxisRotation(0.3, 'x').transform(x[:, :3], angle)
    )


def test_columns_of_a_larger_tensor_get_the_same_draw():
    x = cloud(40, columns=6)
    for noise in (CoordinateNoise(0.1), Rotation3D(0.5)):
        alone = noise.sample(x[:, :3].clone(), generator())
        assert torch.equal(noise.sample(x[:, :3], generator()), alone)
        assert torch.equal(noise.sample(x.t()[:3].t(), generator()), alone)


def test_parameters_have_their_law(additive):
    count = 3000
    draws = additive.draw(cloud(), generators(count)).numpy()
    scaled = draws / additive.scales
    assert draws.shape == (count, additive.num_parameters)
    assert stats.kstest(scaled.ravel(), stats.norm.cdf).pvalue > 1e-4
    covariance = scaled.T @ scaled / count
    assert np.abs(covariance - np.eye(additive.num_parameters)).max() < 5 * (2 / count) ** 0.5


def test_noise_on_coordinates_has_its_law():
    noise = CoordinateNoise(3.0).sample(torch.zeros(20000, 3), generator()) / 3
    assert stats.kstest(noise.flatten().numpy(), stats.norm.cdf).pvalue > 1e-4
    covariance = noise.T @ noise / 20000
    assert (covariance - torch.eye(3)).abs().max() < 5 * (2 / 20000) ** 0.5


@pytest.mark.parametrize('sigma', [0.5, 1.0])
def test_axis_angle_vectors_are_cut_at_half_a_turn(sigma):
    draws = Rotation3D(sigma).draw(cloud(), generators(4000)).numpy()
    lengths = np.linalg.norm(draws, axis=1)
    assert lengths.max() <= np.pi
    law = stats.chi(3, scale=sigma)
    assert stats.kstest(lengths, lambda t: law.cdf(t) / law.cdf(np.pi)).pvalue > 1e-4
    for axis in draws.T / lengths:
        assert stats.kstest(axis, stats.uniform(-1, 2).cdf).pvalue > 1e-4


@pytest.mark.parametrize('tau', [0.5, 0.75, 0.999])
@pytest.mark.parametrize('target', [0.5, 0.7])
def test_radii(perturbation, tau, target):
    expected = max(stats.norm.ppf(tau) - stats.norm.ppf(target), 0)
    if not isinstance(perturbation, (TwistRotation, RotationScale)):
        expected *= perturbation.spec()['sigma']
    if isinstance(perturbation, Rotation3D):
        assert expected <= perturbation.radius(tau, target) <= 1.05 * expected
    else:
        assert perturbation.radius(tau, target) == pytest.approx(expected)
    for bad in (0.3, 1.0, '0.75'):
        with pytest.raises(ValueError, match='tau'):
            perturbation.radius(bad)


@pytest.mark.parametrize('perturbation', ALL, ids=repr)
def test_guarantees_of_clouds_name_what_moves(perturbation):
    guarantee = perturbation.guarantee(0.9)
    words = guarantee.describe()
    assert 'as the pipeline delivers them' in words
    assert 'image' not in json.dumps(guarantee.to_dict())
    assert ('the normals rotate' in words) == (perturbation.num_columns == 6)
    assert ('derivation' in guarantee.extra) == isinstance(perturbation, Rotation3D)
    if 'semi_axes' in guarantee.extra:
        expected = [scale * ndtri(0.9) for scale in perturbation.scales]
        assert list(guarantee.extra['semi_axes'].values()) == pytest.approx(expected)
        assert all(f'{AtMost(size):.4g}' in words for size in guarantee.extra['semi_axes'].values())
    elif not isinstance(perturbation, LogScale):
        assert f'{AtMost(guarantee.radius):.4g}' in words


def test_from_half_a_turn_on_every_rotation_is_covered():
    words = [AxisRotation(sigma).guarantee(0.99).describe() for sigma in (2.0, 1.0)]
    assert 'by any angle' in words[0] and '(133.2 degrees)' in words[1]
    # The bound in closed form covers them from tau = 0.9992 on.
    for tau in (0.99, 0.9995):
        assert Rotation3D(1.0).radius(tau) >= math.pi
        assert 'by any angle' in Rotation3D(1.0).guarantee(tau).describe()
    assert 'rad' in Rotation3D(1.0).guarantee(0.95).describe()


def landmarks_of(perturbation):
    """Landmarks for the axis of the perturbation, and the way back from what becomes of them."""
    turn = frame(perturbation)
    return LANDMARKS @ turn, lambda points: points @ turn.T


@pytest.mark.parametrize('tau', [0.6, 0.95])
@pytest.mark.parametrize(('perturbation', 'read'), ADDITIVE, ids=[repr(p) for p, _ in ADDITIVE])
def test_attacks_lose_the_class_at_the_radius_and_not_before(perturbation, read, tau):
    # The base model reads theta from the cloud and gives class 1 where direction . (theta / sigma)
    # < z(tau): its probability at the attack xi is Phi(z(tau) - direction . (xi / sigma)).
    count, scales = perturbation.num_parameters, torch.tensor(perturbation.scales).double()
    x, back = landmarks_of(perturbation)
    draws = 400
    line = torch.from_numpy(ndtri((np.arange(draws) + 0.5) / draws))
    for seed in (0, 4):  # with one parameter: upwards and downwards
        direction = torch.nn.functional.normalize(cloud(1, count, seed)[0], dim=0)
        across = cloud(draws, count, seed + 10)
        across -= (across @ direction)[:, None] * direction
        standard = line[:, None] * direction + across
        size = perturbation.radius(tau) / (1 if len({*scales.tolist()}) > 1 else scales[0])

        def probability(attack):
            attacked = perturbation.transform(x, attack * scales)
            read_back = [
                read(back(perturbation.transform(attacked, theta * scales)))
                for theta in standard  # noqa: B023
            ]
            inside = (torch.tensor(read_back) / scales) @ direction < ndtri(tau)  # noqa: B023
            return inside.double().mean().item()

        assert probability(0 * direction) == pytest.approx(tau, abs=0.003)
        assert probability(-size * direction) > tau
        edge = 0.02 / size
        assert probability((1 - edge) * size * direction) > 0.503
        assert probability((1 + edge) * size * direction) < 0.497
        assert probability(0.5 * size * direction) == pytest.approx(
            ndtr(float(size) / 2), abs=0.003
        )


def log_density(angle, sigma):
    """Log-density of Rotation3D's law relative to the Haar measure, by the angle."""
    half = np.maximum(angle, 1e-9) / 2
    return -(angle**2) / (2 * sigma**2) + 2 * np.log(half / np.sin(half))


def log_ratio(angle, cosine, attack, sigma):
    """Log-likelihood of R after an attack over before, for an axis at this cosine of R's axis."""
    real = np.cos(angle / 2) * np.cos(attack / 2) + np.sin(angle / 2) * np.sin(attack / 2) * cosine
    back = 2 * np.arccos(np.minimum(np.abs(real), 1))
    return log_density(back, sigma) - log_density(angle, sigma)


def rotation_grid(sigma, angles=900, cosines=400):
    """Quadrature nodes (angle, cosine) of the law of Rotation3D, with their probabilities."""
    node, weight = np.polynomial.legendre.leggauss(angles)
    top = min(np.pi, 12 * sigma)
    angle = (node + 1) / 2 * top
    weight = weight * angle**2 * np.exp(-(angle**2) / (2 * sigma**2))
    cosine, share = np.polynomial.legendre.leggauss(cosines)
    mass = np.outer(weight / weight.sum(), share / 2)
    return angle[:, None], cosine, mass


def worst_probability(sigma, attack, tau):
    """Smallest probability after the attack of a set of probability tau, and its log-ratio."""
    angle, cosine, mass = rotation_grid(sigma)
    ratio = log_ratio(angle, cosine, attack, sigma).ravel()
    order = np.argsort(ratio)
    before = mass.ravel()[order]
    after = before * np.exp(ratio[order])
    assert after.sum() == pytest.approx(1, abs=1e-6)
    total = np.cumsum(before)
    index = np.searchsorted(total, tau)
    return np.interp(tau, total, np.cumsum(after)), ratio[order][index]


@pytest.mark.parametrize('sigma', [0.1, 0.5, 1.0])
@pytest.mark.parametrize('target', [0.5, 0.8])
def test_the_worst_set_of_rotations_just_keeps_its_class_at_the_radius(sigma, target):
    # Neyman-Pearson on the rotation group, by another quadrature.
    for tau in (0.82, 0.9, 0.99):
        radius = min(Rotation3D(sigma).radius(tau, target), np.pi)
        worst, _ = worst_probability(sigma, radius, tau)
        assert worst >= target - 1e-4
        if radius < np.pi:
            assert worst < target + 1e-3
            assert worst_probability(sigma, 1.01 * radius + 0.005 * sigma, tau)[0] < target
        # The worst attack is the one of the largest angle.
        assert worst_probability(sigma, 0.6 * radius, tau)[0] > worst


@pytest.mark.parametrize('sigma', [0.01, 0.05, 0.1, 0.3, 0.6, 1.0])
def test_no_radius_of_rotations_is_below_the_closed_form(sigma):
    noise = Rotation3D(sigma)
    for target in (0.5, 0.6, 0.9, 0.999):
        last = 0.0
        for tau in (0.5, 0.5001, 0.6, 0.75, 0.9, 0.99, 0.9999, 1 - 1e-9, LARGEST_TAU):
            radius = noise.radius(tau, target)
            assert radius >= max(sigma * (ndtri(tau) - ndtri(target)), last)
            last = radius


@pytest.mark.parametrize('sigma', [0.1, 0.5, 1.0])
def test_the_sum_over_levels_is_below_the_probability_that_is_kept(sigma):
    for angle in (0.5 * sigma, 1.1 * sigma, min(2.9 * sigma, 0.95 * np.pi)):
        for tau in (0.6, 0.999):
            worst, level = worst_probability(sigma, angle, tau)
            best = kept_by_rotation(tau, angle, sigma, max(level, 0.0))
            # Of the worst set's own factor little is lost, and every other factor is below it.
            assert best <= worst + 1e-4 and (best >= worst - 2e-3 or level < 0)
            for factor in (0.0, 0.5, 2.0, 5.0):
                for every in (1, 40):
                    assert kept_by_rotation(tau, angle, sigma, factor, every) <= worst + 1e-4


def test_what_two_balls_of_rotations_share():
    # Against random rotations, with SciPy's angles; and it falls with the distance.
    count = 200_000
    rotations = Rotation.random(count, random_state=0)
    for angle in (0.1, 1.0, 2.5, math.pi):
        attack = Rotation.from_rotvec(angle * np.array(TILTED))
        first, second = rotations.magnitude(), (rotations * attack.inv()).magnitude()
        for r, s in ((0.5, 0.3), (1.5, 1.4), (2.0, 3.0), (math.pi, 1.0), (math.pi, math.pi)):
            exact = shared_by_balls(ball(r), ball(s), angle / 2)[0]
            found = ((first <= r) & (second <= s)).mean()
            assert found == pytest.approx(exact, abs=5 * 0.5 / count**0.5)
    angles = np.linspace(0, math.pi, 40)[1:]
    for r in angles[::4]:
        shared = [shared_by_balls(ball(angles), ball(r), angle / 2) for angle in angles]
        assert (np.diff(shared, axis=0) <= 1e-12).all()
        assert (np.diff(shared, axis=1) >= -1e-12).all()


def ball(angles):
    """Balls of rotations with these largest angles, as ``shared_by_balls`` takes them."""
    half = np.atleast_1d(angles) / 2
    return np.stack([half, np.cos(half), np.sin(half)])


@pytest.mark.parametrize('sigma', [0.1, 1.0])
def test_the_balls_of_the_table_are_not_too_large(sigma):
    (half, cos, sin), levels, step = worst_sets._balls(sigma)
    total = np.trapezoid(
        (x := np.linspace(0, np.pi, 100001)) ** 2 * np.exp(-(x**2) / 2 / sigma**2), x
    )
    assert levels[0] == pytest.approx(2 * np.pi / total, rel=1e-6)
    np.testing.assert_allclose(levels[1:] / levels[:-1], math.exp(-step))
    inner = half[(half > 0) & (half < np.pi / 2)]
    depth = log_density(0.0, sigma) - log_density(2 * inner, sigma)
    found = step * np.arange(len(half))[(half > 0) & (half < np.pi / 2)]
    assert (depth <= found).all() and np.abs(depth - found).max() < 1e-4
    np.testing.assert_array_equal([cos, sin], [np.cos(half), np.sin(half)])


@pytest.mark.parametrize('sigma', [0.1, 0.5, 1.0])
def test_the_worst_set_of_rotations_as_a_base_model(sigma):
    # The same set as a model that reads R from the cloud, attacked and smoothed by the class.
    tau, draws, noise = 0.9, 4000, Rotation3D(sigma)
    radius = noise.radius(tau)
    worst, level = worst_probability(sigma, radius, tau)
    axis = torch.tensor(TILTED).double()
    x = torch.eye(3, dtype=torch.float64)
    thetas = noise.draw(x, generators(draws))

    def probability(attacked):
        turned = torch.stack([noise.transform(attacked, theta) for theta in thetas])
        vectors = Rotation.from_matrix(turned.mT.numpy()).as_rotvec()
        angle = np.linalg.norm(vectors, axis=1)
        return np.mean(log_ratio(angle, vectors @ axis.numpy() / angle, radius, sigma) <= level)

    error = 4 * 0.5 / draws**0.5
    assert probability(x) == pytest.approx(tau, abs=error)
    hit = probability(noise.transform(x, radius * axis))
    assert hit == pytest.approx(worst, abs=error)
    assert worst == pytest.approx(0.5, abs=1e-3)
    for other in ([1.0, 0, 0], [0, 1.0, 0]):
        assert probability(noise.transform(x, radius * torch.tensor(other).double())) >= 0.5 - error


@pytest.mark.parametrize('sigma', [0.1, 0.5, 1.0])
def test_the_score_of_rotations_is_below_that_of_gaussian_noise(sigma):
    # The steps of the derivation in Rotation3D's docstring: |w(t)| <= t / sigma^2, and the upper
    # quantile integrals of the score w(t) u are below those of N(0, 1 / sigma^2).
    angle, cosine, mass = rotation_grid(sigma)
    weight = angle / sigma**2 - (2 / angle - 1 / np.tan(angle / 2))
    assert (np.abs(weight) <= angle / sigma**2).all()
    # The score is minus the derivative of the density along the attack.
    step = 1e-5
    slope = log_ratio(angle, cosine, step, sigma) / step
    assert np.abs(slope - weight * cosine)[angle[:, 0] < 0.9 * np.pi].max() < 0.01 / sigma**2
    score = (weight * cosine).ravel()
    order = np.argsort(-score)
    share = np.cumsum(mass.ravel()[order])
    integral = np.cumsum((mass.ravel() * score)[order])
    for p in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert np.interp(p, share, integral) <= stats.norm.pdf(ndtri(p)) / sigma + 1e-4


def votes_of(segment, x, perturbation, seed, n=300, classes=2):
    return collect_votes(
        segment,
        x,
        perturbation,
        SamplingSettings(n0=10, n=n, num_classes=classes, seed=seed, batch_size=50),
    )


def checked_share(votes, signed, radius, tau):
    """Checks that no certified component is nearer than the radius; returns the share certified."""
    certified = certify(votes, tau=tau, alpha=1e-3).certified
    assert (((2 * votes.guess - 1) * signed)[certified] > radius).all()
    assert certified[np.abs(signed) > 3 * radius].mean() > 0.95
    return certified.mean()


@pytest.mark.parametrize('tau', [0.75, 0.9])
def test_no_certificate_of_noise_exceeds_the_true_distance(tau):
    noise = CoordinateNoise(10.0)
    for seed in range(5):
        x = 100 * cloud(20, seed=seed, dtype=torch.float32)
        weights = cloud(200, 60, seed=seed + 50, dtype=torch.float32)
        offsets = weights @ x.flatten() + torch.linspace(-50, 50, 200) * weights.norm(dim=1)
        signed = ((weights @ x.flatten() - offsets) / weights.norm(dim=1)).numpy()
        votes = votes_of(
            lambda batch: (torch.stack(list(batch)).flatten(1) @ weights.T > offsets).long(),  # noqa: B023
            x,
            noise,
            seed,
        )
        checked_share(votes, signed, noise.radius(tau), tau)


@pytest.mark.parametrize('tau', [0.75, 0.9])
def test_no_certificate_of_rotation_exceeds_the_true_angle(tau):
    # A point has class 1 in the upper half plane: its angle to the border is known.
    noise = AxisRotation(0.2)
    angles = torch.linspace(-math.pi, math.pi, 402)[1:-1]
    x = torch.stack([angles.cos(), angles.sin(), torch.ones(400)], dim=1)
    border = torch.minimum(angles.abs(), math.pi - angles.abs()) * angles.sign()
    for seed in range(5):
        votes = votes_of(
            lambda batch: torch.stack([points[:, 1] > 0 for points in batch]), x, noise, seed
        )
        assert checked_share(votes, border.numpy(), noise.radius(tau), tau) > 0.2


@pytest.mark.parametrize('sigma', [0.1, 0.5])
def test_no_certificate_of_rotation_about_any_axis_exceeds_the_true_angle(sigma):
    # By symmetry, the smoothed class of a point is its hemisphere: its latitude is what the
    # shortest rotation that changes it needs.
    noise, tau = Rotation3D(sigma), 0.75
    latitude = torch.linspace(-math.pi / 2, math.pi / 2, 200)
    x = torch.stack([latitude.cos(), torch.zeros(200), latitude.sin()], dim=1)
    for seed in range(3):
        votes = votes_of(
            lambda batch: torch.stack([points[:, 2] > 0 for points in batch]), x, noise, seed
        )
        assert checked_share(votes, latitude.numpy(), noise.radius(tau), tau) > 0.2


def test_noise_larger_than_the_cloud_is_refused():
    x = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 1, 0]])
    CoordinateNoise(2.0).check(x)
    for points in (x / 2, x[:0], x * math.nan):
        with pytest.raises(ValueError, match='sigma is in the unit of the coordinates'):
            CoordinateNoise(2.0).check(points)


@pytest.mark.parametrize(
    'make',
    [
        CoordinateNoise, AxisRotation, Rotation3D, PointTranslation, LogScale, Shear, Twist, Taper,
        lambda sigma: TwistRotation(sigma, 0.1), lambda sigma: TwistRotation(0.1, sigma),
        lambda sigma: RotationScale(sigma, 0.1), lambda sigma: RotationScale(0.1, sigma),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ('sigma', 'message'),
    [
        (0, 'must be positive, got 0'),
        (-1.0, 'must be positive, got -1.0'),
        (math.inf, 'finite number, got inf'),
        (math.nan, 'finite number'),
        ('0.1', "finite number, got '0.1'"),
        (True, 'finite number'),
    ],
)
def test_impossible_scales_are_refused(make, sigma, message):
    with pytest.raises(ValueError, match=message):
        make(sigma)


@pytest.mark.parametrize('axis', ['w', [1, 0], [1, 1, 0], [0, 0, 0], [math.nan, 0, 1], None, 2])
@pytest.mark.parametrize(
    'make',
    [
        AxisRotation, Twist, Taper,
        lambda sigma, axis: TwistRotation(sigma, sigma, axis),
        lambda sigma, axis: RotationScale(sigma, sigma, axis),
    ],
)  # fmt: skip
def test_axes_are_unit_vectors(make, axis):
    with pytest.raises(ValueError, match='axis must be'):
        make(0.1, axis)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match='up to 1, got 1.5'):
        Rotation3D(1.5)
    for noise in (AxisRotation, lambda sigma, axis, n: Rotation3D(sigma, n)):
        with pytest.raises(ValueError, match='normals must be True or False'):
            noise(0.1, 'z', 1)
    for along, axis in (('z', 'z'), ('yx', 'z'), ('xyz', 'z'), ('', 'z'), (['x'], 'z')):
        with pytest.raises(ValueError, match="along must be 'x', 'y' or 'xy'"):
            Shear(0.1, along, axis)
    with pytest.raises(ValueError, match='axis of a shear'):
        Shear(0.1, axis=TILTED)


def test_clouds_and_parameters_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r'coordinates alone, shape \(N, 3\), got \(7, 6\)'):
        Twist(0.1).sample(cloud(columns=6), generator())
    with pytest.raises(ValueError, match=r'normals, shape \(N, 6\), got \(7, 3\)'):
        Rotation3D(0.1, normals=True).sample(cloud(), generator())
    with pytest.raises(ValueError, match='floating point, got torch.int64'):
        Twist(0.1).sample(torch.ones(4, 3, dtype=torch.int64), generator())
    with pytest.raises(ValueError, match=r'shape \(2,\), got \(3,\)'):
        Shear(0.1).transform(cloud(), torch.zeros(3))


@pytest.mark.usefixtures('openmmlab')
def test_configs_name_the_perturbations(perturbation):
    from mmcert.registry import PERTURBATIONS

    spec = perturbation.spec()
    spec['type'] = f'mmcert.{spec["type"]}'
    assert repr(PERTURBATIONS.build({**spec, '_scope_': 'mmcert'})) == repr(perturbation)


def perturb_points(perturbation, tensor, seed=0, attribute_dims=None, **arguments):
    from mmcert.datasets import PerturbPoints

    transform = PerturbPoints(perturbation, **arguments)
    points = SimpleNamespace(tensor=tensor, attribute_dims=attribute_dims)
    np.random.seed(seed)
    return transform({'points': points})['points'].tensor


@pytest.mark.usefixtures('openmmlab')
@pytest.mark.parametrize('normals', [False, True])
def test_the_training_transform_perturbs_coordinates_and_normals_alone(normals):
    x = cloud(50, 8, dtype=torch.float32)
    config = dict(type='mmcert.AxisRotation', sigma=0.5, normals=normals)
    found = perturb_points(config, x)
    # What only the rounding to the grid touches has not moved.
    moved = ((found - x).abs() > 2**-21).any(dim=0).tolist()
    assert moved == [True, True, False, normals, normals, False, False, False]
    assert torch.equal(found, perturb_points(config, x))
    assert not torch.equal(found, perturb_points(config, x, seed=1))
    assert torch.equal(x, cloud(50, 8, dtype=torch.float32))


@pytest.mark.usefixtures('openmmlab')
def test_the_training_transform_follows_law_and_share():
    x = torch.zeros(2000, 4)
    noise = dict(type='CoordinateNoise', sigma=2.0)
    values = perturb_points(noise, x)[:, :3].flatten().numpy()
    assert stats.kstest(values / 2, stats.norm.cdf).pvalue > 1e-4
    moved = [(perturb_points(noise, x[:2], seed, prob=0.3) != 0).any() for seed in range(300)]
    assert np.mean(moved) == pytest.approx(0.3, abs=4 * (0.21 / 300) ** 0.5)


@pytest.mark.usefixtures('openmmlab')
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(perturbation=dict(type='GaussianNoise', sigma=0.1)), "domain 'points'"),
        (dict(perturbation=dict(type='Twist', sigma=0.1), prob=1.5), r'prob must lie in \[0, 1\]'),
        (dict(perturbation=dict(type='Rotation3D', sigma=0.1, normals=True)), '6 columns, got 5'),
        (
            dict(perturbation=dict(type='Twist', sigma=0.1), attribute_dims=dict(color=[2, 3, 4])),
            "'color' is in columns",
        ),
    ],
)
def test_the_training_transform_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        perturb_points(tensor=torch.zeros(4, 5), **arguments)
