"""What certificates cover: nothing that is not proven."""

import math

import pytest
import torch

from mmcert.corruptions import CORRUPTIONS, Cover, coverage
from mmcert.perturbations import (
    AxisRotation,
    CoordinateNoise,
    Enumeration,
    Exponential,
    GaussianBlur,
    GaussianNoise,
    LaplaceNoise,
    PooledNoise,
    Rotation3D,
    TransformationCells,
)
from mmcert.transformations import build

POOLED = dict(type='PooledNoise', factor=8, sigma=0.1)


@pytest.fixture(scope='module')
def image():
    return torch.randint(0, 256, (3, 40, 48), generator=torch.Generator().manual_seed(1)).byte()


@pytest.fixture(scope='module')
def clean(image):
    return image.float() / 255


@pytest.mark.parametrize(
    ('noise', 'order'), [(GaussianNoise(0.25), 2), (LaplaceNoise(0.2), 1)], ids=['l2', 'l1']
)
def test_the_least_threshold_is_that_of_the_distance(noise, order, clean):
    corrupted = clean.clone()
    corrupted[:, 3, 4] += 0.1
    norm = torch.linalg.vector_norm((corrupted.double() - clean.double()).flatten(), order).item()
    found = coverage(noise, clean).of(corrupted, 'fog', 1)
    assert found.covered
    assert found.distance == pytest.approx(norm)
    assert norm <= noise.radius(found.tau) <= norm * (1 + 1e-6)
    assert noise.radius(found.tau - 1e-6) < norm


def test_a_corruption_that_goes_too_far_is_not_covered(clean):
    found = coverage(GaussianNoise(0.25), clean).of(1 - clean, 'fog', 5)
    assert found == Cover(False, None, found.distance)
    assert found.distance > 10
    assert coverage(GaussianNoise(0.25), clean).of(clean[:, 1:], 'fog', 5) == Cover(False)
    assert coverage(GaussianNoise(0.25), clean).of(clean, 'fog', 1) == Cover(True, 0.5, 0.0)


def test_noise_on_means_does_not_see_what_leaves_them_alone(clean):
    noise = PooledNoise(8, 0.1)
    corrupted = clean.clone()
    corrupted[:, 0, 0], corrupted[:, 7, 7] = clean[:, 7, 7], clean[:, 0, 0]
    found = coverage(noise, clean).of(corrupted, 'glass_blur', 1)
    assert found.covered
    assert found.distance < 1e-4 < (corrupted - clean).norm()
    # And so the model receives the same.
    draws = noise.draw(clean, [torch.Generator().manual_seed(seed) for seed in range(4)])
    received = [noise.apply(x, draws.clone()) for x in (clean, corrupted)]
    torch.testing.assert_close(*received, rtol=0, atol=1 / 255 + 1e-6)
    assert (received[0] == received[1]).float().mean() > 0.99
    # A change of the means counts in full.
    brighter = coverage(noise, clean).of(clean + 0.01, 'brightness', 1)
    assert brighter.distance == pytest.approx(0.01 * clean.numel() ** 0.5, rel=1e-3)


def test_a_covered_input_keeps_the_probability_of_a_class(clean):
    """A linear segmentor: the class of the brightest half-space, whose probability is known."""
    noise = GaussianNoise(0.25)
    direction = torch.randn(clean.numel(), generator=torch.Generator().manual_seed(2)).double()
    direction /= direction.norm()
    corrupted = clean.double() - 0.3 * direction.view_as(clean)
    found = coverage(noise, clean).of(corrupted, 'fog', 1)
    margin = 0.25 * torch.special.ndtri(torch.tensor(found.tau, dtype=torch.float64))
    # At the threshold and against the worst direction, just half of the probability is left.
    left = torch.special.ndtr((margin - 0.3) / 0.25).item()
    assert 0.5 <= left < 0.5 + 1e-6


def test_cells_cover_a_transformed_image_and_a_little_more(clean):
    contrast = build('contrast')
    factor = math.log(0.4)

    def cells(low, extra):
        return TransformationCells('contrast', low=low, high=0, noise=POOLED, extra_radius=extra)

    row = torch.tensor([[factor]], dtype=torch.float64)
    exact = contrast.transform(clean[None].double(), row)[0]
    cut = ((exact * 255).floor() / 255).float()
    assert coverage(cells(factor, 0.0), clean).of(exact.float(), 'contrast', 1).covered
    found = coverage(cells(factor, 0.1), clean).of(cut, 'contrast', 1)
    assert not found.covered
    needed = found.distance * 0.8
    assert coverage(cells(factor, needed), clean).of(cut, 'contrast', 1).covered
    assert not coverage(cells(factor, needed * 0.999), clean).of(cut, 'contrast', 1).covered
    # Not of a smaller set. And where nobody says which member is near, none is looked for.
    assert not coverage(cells(factor / 2, needed), clean).of(cut, 'contrast', 1).covered
    assert not coverage(cells(factor, needed), clean).of(cut, 'fog', 1).covered
    # What hardly changes the image is near to no contrast at all.
    assert coverage(cells(factor, needed), clean).of(clean + 1e-4, 'fog', 1).covered


def test_jpeg_of_the_benchmark_is_that_of_the_certificates(image, clean):
    pytest.importorskip('imagecorruptions', reason='the extra `corruptions` is not installed')
    exact = coverage(Enumeration('jpeg', values=[25, 15]), clean)
    cells = coverage(TransformationCells('jpeg', values=[25, 15], noise=POOLED), clean)
    for severity, there in ((1, True), (2, False), (3, True)):
        corrupted = CORRUPTIONS['jpeg_compression'](image, severity).inputs.float() / 255
        for covered in (exact, cells):
            assert covered.of(corrupted, 'jpeg_compression', severity).covered == there
            corrupted[0, 0, 0] += 1 / 255
            assert not covered.of(corrupted, 'jpeg_compression', severity).covered
            corrupted[0, 0, 0] -= 1 / 255


def test_rotations_are_covered_up_to_their_angle():
    cloud = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    found = CORRUPTIONS['rotate'](cloud, 1)
    covered = coverage(Rotation3D(0.5), cloud)
    cover = covered.of(found.inputs, 'rotate', 1, found.rotation)
    assert cover.covered
    assert cover.distance == pytest.approx(found.rotation.norm().item())
    assert Rotation3D(0.5).radius(cover.tau) >= cover.distance
    nudged = found.inputs.clone()
    nudged[3, 1] = torch.nextafter(nudged[3, 1], torch.tensor(10.0))
    assert not covered.of(nudged, 'rotate', 1, found.rotation).covered
    assert not covered.of(found.inputs, 'rotate', 1).covered
    assert not covered.of(found.inputs[1:], 'rotate', 1, found.rotation).covered


def test_displacements_of_points_are_covered_up_to_their_norm():
    cloud = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    covered = coverage(CoordinateNoise(1.0), cloud)
    jitter = CORRUPTIONS['jitter'](cloud, 1)
    found = covered.of(jitter.inputs, 'jitter', 1)
    assert found.covered
    assert found.distance == pytest.approx((jitter.inputs - cloud).norm().item(), rel=1e-5)
    dropped = CORRUPTIONS['dropout_global'](cloud, 1)
    assert covered.of(dropped.inputs, 'dropout_global', 1) == Cover(False)


@pytest.mark.parametrize(
    'perturbation',
    [
        GaussianBlur(Exponential(4.0)),
        TransformationCells('rotation', low=-1, high=1, noise=POOLED),
        Enumeration('rotation', values=[0, 1]),
    ],
    ids=lambda perturbation: type(perturbation).__name__,
)
def test_other_certificates_cover_nothing(perturbation, clean):
    assert coverage(perturbation, clean).of(clean, 'gaussian_blur', 1) == Cover(False)
    cloud = torch.randn(9, 3)
    assert coverage(AxisRotation(0.5), cloud).of(cloud, 'rotate', 1) == Cover(False)
