"""Semantic transformations of images, against their definitions and outside implementations."""

import json
import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from mmcert.transformations import TRANSFORMATIONS, build
from mmcert.transformations.operators import read_bilinear

TYPICAL = {
    'gaussian_blur': [1.7],
    'brightness': [0.13],
    'contrast': [-0.6],
    'brightness_contrast': [-0.6, 0.13],
    'gamma': [1.7],
    'translation': [2.3, -1.6],
    'rotation': [17.0],
    'scaling': [1.23],
    'rotation_scaling': [17.0, 1.23],
    'rotational_blur': [6.0],
    'defocus_blur': [2.2],
    'zoom_blur': [1.17],
    'motion_blur': [5.3, 28.0],
    'pixelate': [2.6],
    'jpeg': [40],
}
BLURS = [
    'gaussian_blur', 'rotational_blur', 'defocus_blur', 'zoom_blur', 'motion_blur', 'pixelate',
]  # fmt: skip
GEOMETRIC = ['translation', 'rotation', 'scaling', 'rotation_scaling']
VARIANTS = [
    *TRANSFORMATIONS,
    dict(type='contrast', pivot='zero'),
    dict(type='brightness_contrast', pivot='zero'),
    dict(type='defocus_blur', kernel='benchmark'),
    dict(type='translation', padding='cyclic'),
    dict(type='rotation', padding='zeros'),
]


def label(cfg):
    return cfg if isinstance(cfg, str) else '-'.join(cfg.values())


def smooth_image(height=40, width=56, channels=3, seed=0, dtype=torch.float64):
    """Low-pass noise that fills [0.05, 0.95]."""
    noise = np.random.default_rng(seed).normal(size=(channels, height, width))
    image = scipy.ndimage.gaussian_filter(noise, (0, 3, 3), mode='reflect')
    image = (image - image.min()) / (image.max() - image.min()) * 0.9 + 0.05
    return torch.from_numpy(image)[None].to(dtype)


def rough_image(height=40, width=56, channels=3, seed=0, dtype=torch.float64):
    noise = np.random.default_rng(seed).random((1, channels, height, width))
    return torch.from_numpy(noise).to(dtype)


def impulse(size):
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    image[..., size // 2, size // 2] = 1
    return image


def test_the_registry_is_complete():
    assert set(TRANSFORMATIONS) == set(TYPICAL)
    assert {n for n, cls in TRANSFORMATIONS.items() if cls.moves_labels} == set(GEOMETRIC)


# --- every transformation ---


@pytest.mark.parametrize('cfg', VARIANTS, ids=label)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_the_identity_gives_the_image_back(cfg, dtype, tolerance):
    transformation = build(cfg)
    image = rough_image(dtype=dtype)
    if transformation.identity is None:
        assert transformation.name == 'jpeg'
        return
    same = transformation(image, transformation.identity)
    assert same.dtype == dtype
    torch.testing.assert_close(same, image, rtol=0, atol=tolerance)


@pytest.mark.parametrize('cfg', VARIANTS, ids=label)
def test_a_batch_is_its_items_each_with_its_own_parameters(cfg):
    transformation = build(cfg)
    images = torch.cat([rough_image(seed=k, dtype=torch.float32) for k in range(3)])
    typical = torch.tensor(TYPICAL[transformation.name], dtype=torch.float64)
    start = typical if transformation.identity is None else transformation.identity
    parameters = torch.stack([start + (typical - start) * k / 2 for k in range(3)])
    batch = transformation(images, parameters)
    for k in range(3):
        alone = transformation(images[k : k + 1], parameters[k])
        torch.testing.assert_close(batch[k : k + 1], alone, rtol=0, atol=1e-6)
    shared = transformation(images, typical)
    torch.testing.assert_close(shared[2], batch[2], rtol=0, atol=1e-6)
    assert (batch[2] - images[2]).abs().max() > 0.01


@pytest.mark.parametrize('name', BLURS)
def test_blurs_leave_a_constant_image(name):
    image = torch.full((1, 3, 30, 41), 0.37, dtype=torch.float64)
    blurred = build(name)(image, TYPICAL[name])
    torch.testing.assert_close(blurred, image, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [
        ('gaussian_blur', 1.7),
        ('defocus_blur', 2.2),
        ('motion_blur', (5.3, 0)),
        ('motion_blur', (9, 90)),
        ('pixelate', 4),
    ],
)
def test_averages_keep_the_mean(name, parameters):
    image = rough_image()
    blurred = build(name)(image, parameters)
    torch.testing.assert_close(blurred.mean((2, 3)), image.mean((2, 3)), rtol=0, atol=1e-12)
    assert blurred.var() < image.var()


@pytest.mark.parametrize('name', [n for n in TYPICAL if n != 'jpeg'])
def test_gradients_reach_the_images(name):
    transformation = build(name)
    image = rough_image(5, 6, 2).requires_grad_()
    parameters = torch.tensor(TYPICAL[name], dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: transformation.transform(x, parameters[None]), image)


@pytest.mark.parametrize('name', [n for n in TYPICAL if n not in ('jpeg', 'pixelate')])
def test_gradients_reach_the_parameters(name):
    transformation = build(name)
    assert transformation.differentiable_parameters
    images = torch.cat([rough_image(5, 6, 2, seed=k) for k in range(2)])
    # Generic values: away from the kinks of interpolation and kernel edges.
    second = [v * 0.8713 for v in TYPICAL[name]]
    if name in ('zoom_blur', 'scaling'):
        second = [1.0913]
    parameters = torch.tensor([TYPICAL[name], second], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda p: transformation(images, p), parameters)
    transformation(images, parameters).square().sum().backward()
    assert (parameters.grad.abs() > 1e-6).all()


@pytest.mark.parametrize('name', TYPICAL)
def test_severities_grow(name):
    transformation = build(name)
    ramp = torch.linspace(0, 0.3, 80) + torch.linspace(0, 0.3, 60)[:, None]
    image = ramp + smooth_image(60, 80) * 0.3 + rough_image(60, 80) * 0.05
    steps = [transformation.severity(s, size=(60, 80)) for s in range(1, 6)]
    distances = [float((transformation(image, p) - image).norm()) for p in steps]
    assert distances[0] > 0
    assert (np.diff(distances) > 0).all(), distances


def test_severities_scale_with_the_shorter_side():
    assert build('defocus_blur').severity(2).tolist() == [4]
    assert build('defocus_blur').severity(2, size=(112, 300)).tolist() == [2]
    assert build('gaussian_blur').severity(5, size=(448, 448)).tolist() == [144]
    assert build('pixelate').severity(5, size=(112, 112)).tolist() == [2.5]
    assert build('jpeg').severity(5, size=(112, 112)).tolist() == [7]
    assert build('contrast').severity(1).exp().item() == pytest.approx(0.4)
    with pytest.raises(ValueError, match='1 to 5, got 6'):
        build('jpeg').severity(6)


@pytest.mark.parametrize('cfg', VARIANTS, ids=label)
def test_a_spec_is_json_and_builds_an_equal_transformation(cfg):
    transformation = build(cfg)
    again = build(json.loads(json.dumps(transformation.spec())))
    assert again.to_dict() == transformation.to_dict()
    assert json.loads(json.dumps(transformation.to_dict()))['operator']
    image = rough_image(9, 11)
    parameters = TYPICAL[transformation.name]
    assert torch.equal(again(image, parameters), transformation(image, parameters))


@pytest.mark.parametrize('name', sorted(set(TYPICAL) - set(GEOMETRIC)))
def test_labels_stay_unless_they_move(name):
    labels = torch.arange(12).reshape(1, 3, 4)
    assert torch.equal(build(name).labels(labels, TYPICAL[name]), labels)


# --- bad input ---


def test_images_that_are_none_are_refused():
    blur = build('defocus_blur')
    image = rough_image()
    for bad, message in [
        (image * 255, 'divide 0-255'),
        (image - 0.5, r'\[0, 1\]'),
        (torch.full_like(image, math.nan), r'\[0, 1\]'),
        ((image * 255).to(torch.uint8), 'floating point'),
        (image[0], 'shape'),
        (image[:0], 'empty'),
    ]:
        with pytest.raises(ValueError, match=message):
            blur(bad, 1.0)
    assert blur(image * 1.0005, 1.0).isfinite().all()


def test_parameters_out_of_range_are_refused():
    image = rough_image()
    for name, bad, message in [
        ('defocus_blur', -1, r'radius must lie in \[0, 50\] \(px\), got -1'),
        ('defocus_blur', math.nan, 'got nan'),
        ('scaling', 0, r'\[0.1, 10\]'),
        ('pixelate', 0.5, r'\[1, 256\]'),
        ('jpeg', 0, r'\[1, 100\]'),
        ('jpeg', 33.5, 'whole'),
        ('translation', 3.0, r'shape \(2,\) or \(B, 2\): dx, dy'),
        ('translation', [[1.0, 2.0]] * 2, '2 parameters for 1 images'),
        ('brightness', [[[0.1]]], 'shape'),
    ]:
        with pytest.raises(ValueError, match=message):
            build(name)(image, bad)


def test_unknown_configs_are_refused():
    for cfg, message in [
        ('fog', "unknown transformation 'fog'; known: gaussian_blur"),
        (dict(type='defocus_blur', radius=3), 'defocus_blur: .*radius'),
        (dict(type='rotation', padding='cyclic'), 'padding must be one of reflection, zeros'),
        (dict(type='contrast', pivot='one'), 'pivot'),
        (dict(type='zoom_blur', steps=1), 'at least 2'),
        (dict(type='jpeg', channels='grb'), 'bgr'),
        (dict(type='defocus_blur', kernel='ring'), 'benchmark'),
    ]:
        with pytest.raises(ValueError, match=message):
            build(cfg)
    with pytest.raises(ValueError, match='1 or 3 channels'):
        build('jpeg')(rough_image(channels=2), 50)


def test_attack_sets_and_grids():
    blur, shift = build('defocus_blur'), build('translation')
    assert blur.finite([1, 2, 3]).tolist() == [[1], [2], [3]]
    assert shift.finite([(1, 2), (3, 4)]).shape == (2, 2)
    with pytest.raises(ValueError, match='at least one'):
        blur.finite([])
    with pytest.raises(ValueError, match=r'\[0, 50\]'):
        blur.finite([1, 60])
    with pytest.raises(ValueError, match=r'\(N, 2\)'):
        shift.finite([1, 2])
    assert blur.grid(0, 3, 4).tolist() == [[0], [1], [2], [3]]
    assert shift.grid((0, 0), (1, 2), (2, 3)).tolist() == [
        [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2],
    ]  # fmt: skip
    assert build('jpeg').grid(30, 32, 9).tolist() == [[30], [31], [32]]
    with pytest.raises(ValueError, match='low <= high'):
        blur.grid(3, 0, 4)
    with pytest.raises(ValueError, match='counts'):
        blur.grid(0, 3, 0)


# --- Gaussian blur ---


def test_gaussian_blur_is_the_dct_multiplier():
    from scipy.fft import dctn, idctn

    image = rough_image()
    variance = 1.3
    rows = np.exp(-0.5 * variance * (np.pi * np.arange(40) / 40) ** 2)
    columns = np.exp(-0.5 * variance * (np.pi * np.arange(56) / 56) ** 2)
    coefficients = dctn(image.numpy(), axes=(2, 3)) * rows[:, None] * columns
    expected = torch.from_numpy(idctn(coefficients, axes=(2, 3)))
    blurred = build('gaussian_blur')(image, variance)
    torch.testing.assert_close(blurred, expected, rtol=0, atol=1e-12)


def test_gaussian_blur_is_the_sampled_kernel_where_that_is_band_limited():
    image = rough_image()
    for deviation, tolerance in [(1.5, 1e-5), (3.0, 1e-9)]:
        expected = scipy.ndimage.gaussian_filter(
            image.numpy(), (0, 0, deviation, deviation), mode='reflect', truncate=10
        )
        blurred = build('gaussian_blur')(image, deviation**2)
        torch.testing.assert_close(blurred, torch.from_numpy(expected), rtol=0, atol=tolerance)


def test_gaussian_blurs_add_their_variances():
    blur, image = build('gaussian_blur'), rough_image()
    one_by_one = blur.transform(blur(image, 0.7), torch.tensor([[2.1]], dtype=torch.float64))
    torch.testing.assert_close(one_by_one, blur(image, 2.8), rtol=0, atol=1e-12)


# --- brightness and contrast ---


def test_brightness_and_contrast_by_definition():
    image = rough_image()
    torch.testing.assert_close(build('brightness')(image, -0.4), image - 0.4)
    mean = image.mean((2, 3), keepdim=True)
    stretched = build('contrast')(image, math.log(0.3))
    torch.testing.assert_close(stretched, mean + 0.3 * (image - mean))
    plain = build(dict(type='contrast', pivot='zero'))(image, math.log(1.5))
    torch.testing.assert_close(plain, 1.5 * image)
    assert plain.max() > 1.2


@pytest.mark.parametrize('pivot', ['mean', 'zero'])
def test_contrasts_add(pivot):
    contrast, image = build(dict(type='contrast', pivot=pivot)), rough_image()
    twice = contrast.transform(contrast(image, 0.5), torch.tensor([[-0.8]], dtype=torch.float64))
    torch.testing.assert_close(twice, contrast(image, -0.3))


@pytest.mark.parametrize('pivot', ['mean', 'zero'])
def test_brightness_and_contrast_together_are_one_after_the_other(pivot):
    both = build(dict(type='brightness_contrast', pivot=pivot))
    contrast = build(dict(type='contrast', pivot=pivot))
    image = rough_image()
    assert torch.equal(both(image, (0.7, 0)), contrast(image, 0.7))
    assert torch.equal(both(image, (0, -0.2)), build('brightness')(image, -0.2))
    expected = (image + 0.1) * math.exp(0.5)
    if pivot == 'mean':
        mean = image.mean((2, 3), keepdim=True)
        expected = mean + 0.1 + math.exp(0.5) * (image - mean)
    torch.testing.assert_close(both(image, (0.5, 0.1)), expected)


def test_gamma_is_the_power_and_keeps_signs():
    gamma, image = build('gamma'), rough_image()
    torch.testing.assert_close(gamma(image, 2.5), image**2.5)
    torch.testing.assert_close(gamma(gamma(image, 2.5), 0.4), image)
    beyond = torch.tensor([[[[-0.25, 0.0, 2.25]]]], dtype=torch.float64)
    found = gamma.transform(beyond, torch.tensor([[0.5]], dtype=torch.float64))
    assert found.flatten().tolist() == [-0.5, 0, 1.5]


def test_gamma_has_finite_gradients_at_black():
    image = torch.tensor([[[[0.0, 0.5]]]], dtype=torch.float64, requires_grad=True)
    power = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    build('gamma').transform(image, power).sum().backward()
    assert image.grad.flatten().tolist() == pytest.approx([0, math.sqrt(0.5)])
    assert power.grad.item() == pytest.approx(math.sqrt(0.5) * math.log(0.5))


# --- defocus and motion ---


def test_the_defocus_disk_is_its_impulse_response():
    radius = 3.3
    response = build('defocus_blur')(impulse(15), radius)[0, 0].numpy()
    y, x = np.mgrid[-7:8, -7:8]
    weights = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    np.testing.assert_allclose(response, weights / weights.sum(), atol=1e-15)
    assert weights.sum() == pytest.approx(math.pi * radius**2, rel=0.02)


@pytest.mark.parametrize(('radius', 'alias'), [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.5), (6, 0.5),
                                               (8, 0.5), (10, 0.5)])  # fmt: skip
def test_the_benchmarks_defocus_kernel(radius, alias):
    cv2 = pytest.importorskip('cv2')
    # `disk` of make_imagenet_c.py (Hendrycks and Dietterich), written out again.
    half, taps = (8, 3) if radius <= 8 else (radius, 5)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float64)
    kernel = cv2.GaussianBlur(disk / disk.sum(), ksize=(taps, taps), sigmaX=alias)
    assert kernel.sum() == pytest.approx(1, abs=0.015)
    kernel /= kernel.sum()
    blur = build(dict(type='defocus_blur', kernel='benchmark'))
    response = blur(impulse(31), radius)[0, 0].numpy()
    expected = np.pad(kernel, 15 - half)
    np.testing.assert_allclose(response, expected, atol=2e-6)
    image = rough_image()
    channels = image[0].permute(1, 2, 0).numpy()
    filtered = cv2.filter2D(channels, -1, kernel, borderType=cv2.BORDER_REFLECT)
    torch.testing.assert_close(
        blur(image, radius)[0].permute(1, 2, 0), torch.from_numpy(filtered), rtol=0, atol=1e-4
    )


def test_the_two_defocus_kernels_are_close():
    image = smooth_image()
    for radius in (3, 4, 6):
        disk = build('defocus_blur')(image, radius)
        benchmark = build(dict(type='defocus_blur', kernel='benchmark'))(image, radius)
        assert (disk - benchmark).abs().max() < 0.01 * (disk - image).abs().max()


def test_kernels_larger_than_the_image_reflect_more_than_once():
    image = rough_image(5, 7)
    blurred = build('defocus_blur')(image, 12.0)
    y, x = np.mgrid[-12:13, -12:13]
    weights = np.clip(12.5 - np.hypot(x, y), 0, 1)
    expected = scipy.ndimage.convolve(image.numpy()[0, 0], weights / weights.sum(), mode='reflect')
    np.testing.assert_allclose(blurred[0, 0].numpy(), expected, atol=1e-12)


def test_motion_makes_a_ramp_of_a_vertical_edge():
    image = torch.zeros(1, 1, 9, 40, dtype=torch.float64)
    image[..., 20:] = 1
    length = 8.0
    ramp = build('motion_blur')(image, (length, 0))[0, 0]
    assert (ramp == ramp[:1]).all()
    # The edge lies at 19.5 between pixel centres; inside the ramp, the mean of linearly
    # interpolated values is the share of the line to its right.
    expected = np.clip((np.arange(40) - 19.5) / length + 0.5, 0, 1)
    np.testing.assert_allclose(ramp[0].numpy(), expected, atol=0.02)
    np.testing.assert_allclose(ramp[0, 17:23].numpy(), expected[17:23], atol=1e-4)
    upright = build('motion_blur')(image, (length, 90))
    torch.testing.assert_close(upright, image, rtol=0, atol=1e-12)


def test_motion_has_the_direction_and_spread_of_its_line():
    length, angle = 12.0, 30.0
    response = build('motion_blur')(impulse(21), (length, angle))[0, 0].numpy()
    y, x = np.mgrid[10:-11:-1, -10:11]
    assert response.sum() == pytest.approx(1)
    assert (response * x).sum() == pytest.approx(0, abs=1e-12)
    spread = math.sqrt((response * (x**2 + y**2)).sum())
    assert spread == pytest.approx(length / math.sqrt(12), rel=0.02)
    cov = np.array([[(response * a * b).sum() for a in (x, y)] for b in (x, y)])
    axis = np.linalg.eigh(cov)[1][:, -1]
    assert math.degrees(math.atan2(axis[1], axis[0])) % 180 == pytest.approx(angle, abs=1)


def test_motion_is_the_mean_of_shifts():
    image = smooth_image()
    moved = [
        scipy.ndimage.shift(
            image[0].numpy(),
            (0, -t * 6 * math.sin(0.5), t * 6 * math.cos(0.5)),
            order=1,
            mode='reflect',
        )
        for t in (np.arange(128) + 0.5) / 128 - 0.5
    ]
    blurred = build('motion_blur')(image, (6.0, math.degrees(0.5)))
    np.testing.assert_allclose(blurred[0].numpy(), np.mean(moved, axis=0), atol=1e-9)


# --- geometry ---


def test_whole_translations_are_rolls_when_cyclic():
    image = rough_image()
    moved = build(dict(type='translation', padding='cyclic'))(image, (5, -3))
    torch.testing.assert_close(moved, image.roll((-3, 5), (2, 3)), rtol=0, atol=1e-12)
    far = build(dict(type='translation', padding='cyclic'))(image, (56 * 7 + 1, 400))
    torch.testing.assert_close(far, image.roll(1, 3), rtol=0, atol=1e-11)


@pytest.mark.parametrize(('padding', 'mode'), [
    ('reflection', 'reflect'), ('zeros', 'grid-constant'), ('cyclic', 'grid-wrap'),
])  # fmt: skip
def test_translations_are_scipys(padding, mode):
    image = rough_image()
    moved = build(dict(type='translation', padding=padding))(image, (7.3, -4.6))
    expected = scipy.ndimage.shift(image.numpy(), (0, 0, -4.6, 7.3), order=1, mode=mode)
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(('padding', 'mode'), [('reflection', 'reflect'),
                                               ('zeros', 'grid-constant')])  # fmt: skip
def test_rotations_and_scalings_are_scipys(padding, mode):
    image = rough_image()
    turned = build(dict(type='rotation', padding=padding))(image, 33.0)
    expected = scipy.ndimage.rotate(
        image.numpy(), 33.0, axes=(3, 2), reshape=False, order=1, mode=mode
    )
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-11)
    for factor in (0.7, 1.4):
        centre = (np.array([40, 56]) - 1) / 2
        expected = [
            scipy.ndimage.affine_transform(
                channel, [1 / factor] * 2, centre - centre / factor, order=1, mode=mode
            )
            for channel in image[0].numpy()
        ]
        scaled = build(dict(type='scaling', padding=padding))(image, factor)
        np.testing.assert_allclose(scaled[0].numpy(), expected, atol=1e-11)


def test_rotations_are_opencvs():
    cv2 = pytest.importorskip('cv2')
    image = smooth_image()[0].permute(1, 2, 0).numpy()
    matrix = cv2.getRotationMatrix2D((55 / 2, 39 / 2), 20.0, 1.0)
    expected = cv2.warpAffine(image, matrix, (56, 40), borderMode=cv2.BORDER_REFLECT)
    turned = build('rotation')(torch.from_numpy(image).permute(2, 0, 1)[None], 20.0)
    # OpenCV rounds positions to 1/32 of a pixel.
    np.testing.assert_allclose(turned[0].permute(1, 2, 0).numpy(), expected, atol=0.01)


def test_quarter_and_full_turns():
    rotate, image = build('rotation'), rough_image(31, 31)
    for angle, times in [(90, 1), (180, 2), (-90, -1), (360, 0)]:
        expected = image.rot90(times, (2, 3))
        torch.testing.assert_close(rotate(image, angle), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('padding', ['reflection', 'zeros'])
def test_rotation_and_scaling_together_are_either_alone_to_the_last_bit(padding):
    image, labels = rough_image(dtype=torch.float32), torch.arange(40 * 56).reshape(1, 40, 56)
    both, turn, scale = (
        build(dict(type=name, padding=padding))
        for name in ('rotation_scaling', 'rotation', 'scaling')
    )
    for alone, value, together in [
        (turn, 33.3, (33.3, 1)), (turn, -0.2, (-0.2, 1)), (scale, 1.37, (0, 1.37)),
        (scale, 0.99, (0, 0.99)),
    ]:  # fmt: skip
        assert torch.equal(both(image, together), alone(image, value))
        assert torch.equal(both.labels(labels, together), alone.labels(labels, value))
        assert torch.equal(
            both.labels_of_content(labels, together), alone.labels_of_content(labels, value)
        )


def test_rotation_and_scaling_together_are_one_after_the_other():
    image = smooth_image(61, 61)
    inner = (..., slice(12, -12), slice(12, -12))
    both = build('rotation_scaling')(image, (12.0, 1.2))
    apart = build('scaling')(build('rotation')(image, 12.0), 1.2)
    assert (both[inner] - apart[inner]).abs().max() < 0.03
    assert (both[inner] - image[inner]).abs().max() > 0.3


def test_scaling_is_undone_on_a_smooth_image():
    image, scale = smooth_image(61, 61), build('scaling')
    back = scale(scale(image, 1.25), 0.8)
    inner = (..., slice(9, -9), slice(9, -9))
    change = (scale(image, 1.25)[inner] - image[inner]).abs().max()
    assert (back[inner] - image[inner]).abs().max() < 0.1 * change


@pytest.mark.parametrize(('name', 'factor', 'steps'), [('rotational_blur', 5.0, 15),
                                                       ('zoom_blur', 1.2, 16)])  # fmt: skip
def test_means_of_moves_are_means_of_moves(name, factor, steps):
    image = rough_image()
    first, move = (-factor, 'rotation') if name == 'rotational_blur' else (1.0, 'scaling')
    moves = [build(move)(image, p) for p in np.linspace(first, factor, steps)]
    blurred = build(name)(image, factor)
    torch.testing.assert_close(blurred, torch.stack(moves).mean(0), rtol=0, atol=1e-12)


def test_zoom_blur_leaves_the_centre_and_moves_the_rim():
    image = smooth_image(61, 61, channels=1)
    change = (build('zoom_blur')(image, 1.2) - image).abs()[0, 0]
    assert change[30, 30] < 1e-12
    assert change[28:33, 28:33].mean() < 0.2 * change[:8].mean()


# --- labels that move ---


def coloured_square():
    image = torch.zeros(1, 1, 48, 60, dtype=torch.float64)
    labels = torch.zeros(1, 48, 60, dtype=torch.long)
    image[..., 10:26, 14:30] = 1
    labels[:, 10:26, 14:30] = 7
    return image, labels


@pytest.mark.parametrize(('name', 'parameters'), [
    ('translation', (6.3, -3.4)), ('translation', (-20, 30)), ('rotation', 25), ('rotation', -140),
    ('scaling', 1.4), ('scaling', 0.6), ('rotation_scaling', (25, 1.4)),
])  # fmt: skip
@pytest.mark.parametrize('padding', ['zeros', 'reflection'])
def test_labels_move_with_the_content(name, parameters, padding):
    image, labels = coloured_square()
    transformation = build(dict(type=name, padding=padding))
    moved, label_map = (
        transformation(image, parameters)[:, 0],
        transformation.labels(labels, parameters),
    )
    assert label_map.dtype == labels.dtype
    # Where interpolation meets a single colour, the label is that colour's.
    inside = label_map != 255
    assert (label_map[inside & (moved > 0.9)] == 7).all()
    assert (label_map[inside & (moved < 0.1)] == 0).all()
    white = build(dict(type=name, padding='zeros'))(torch.ones_like(image), parameters)[:, 0]
    assert (white[inside] >= 0.25 - 1e-9).all()
    assert (white[~inside] <= 0.75 + 1e-9).all()
    if 'scaling' not in name or np.max(parameters) < 1:
        assert (~inside).any()


def test_cyclic_labels_leave_no_gap():
    _, labels = coloured_square()
    moved = build(dict(type='translation', padding='cyclic')).labels(labels, (40, 30))
    assert torch.equal(moved, labels.roll((30, 40), (1, 2)))


@pytest.mark.parametrize(('name', 'parameters'), [('translation', (5, -7)), ('rotation', 21),
                                                  ('scaling', 1.3),
                                                  ('rotation_scaling', (21, 1.3))])  # fmt: skip
def test_the_content_is_found_again_where_it_went(name, parameters):
    _, labels = coloured_square()
    transformation = build(name)
    found = transformation.labels_of_content(transformation.labels(labels, parameters), parameters)
    here = found != 255
    assert here.float().mean() > 0.55
    assert (found[here] == labels[here]).float().mean() > 0.97
    assert (found[:, 14:22, 18:26] == 7).all()


def test_label_maps_that_are_none_are_refused():
    for labels in (torch.zeros(1, 4, 4), torch.zeros(4, 4, dtype=torch.long)):
        for name in ('rotation', 'brightness'):
            with pytest.raises(ValueError, match='integers of shape'):
                build(name).labels(labels, 0.5)


# --- pixelate and JPEG ---


@pytest.mark.parametrize('factor', [2, 4, 8])
def test_pixelate_has_constant_blocks_of_their_means(factor):
    image = rough_image()
    blocks = build('pixelate')(image, factor)
    means = torch.nn.functional.avg_pool2d(image, factor)
    expected = means.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(blocks, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('factor', [1 / 0.6, 2.5, 1 / 0.3, 7])
def test_pixelate_at_other_factors_is_opencvs_area_average(factor):
    cv2 = pytest.importorskip('cv2')
    image = rough_image()[0].permute(1, 2, 0).numpy()
    height, width = int(40 / factor + 1e-4), int(56 / factor + 1e-4)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    rows = np.floor((np.arange(40) + 0.5) * height / 40).astype(int)
    columns = np.floor((np.arange(56) + 0.5) * width / 56).astype(int)
    blocks = build('pixelate')(torch.from_numpy(image).permute(2, 0, 1)[None], factor)
    # OpenCV computes the weights in single precision.
    np.testing.assert_allclose(
        blocks[0].permute(1, 2, 0).numpy(), small[rows][:, columns], atol=1e-6
    )


@pytest.mark.parametrize('factor', [2, 4])
def test_pixelate_is_pillows_box_at_whole_factors(factor):
    pillow = pytest.importorskip('PIL.Image')
    image = rough_image(dtype=torch.float32)
    picture = pillow.fromarray(image[0, 0].numpy())
    small = picture.resize((56 // factor, 40 // factor), pillow.BOX)
    expected = np.asarray(small.resize((56, 40), pillow.BOX))
    blocks = build('pixelate')(image, factor)[0, 0].numpy()
    np.testing.assert_allclose(blocks, expected, atol=1e-6)


@pytest.mark.parametrize('quality', [10, 50, 95])
def test_jpeg_is_the_librarys(quality):
    cv2 = pytest.importorskip('cv2')
    pixels = (smooth_image()[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    stored = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.imdecode(stored, cv2.IMREAD_COLOR)
    coded = build('jpeg')(image, quality)
    assert coded.dtype == torch.float64
    np.testing.assert_array_equal((coded[0].permute(1, 2, 0).numpy() * 255).round(), expected)
    turned = build(dict(type='jpeg', channels='rgb'))(image.flip(1), quality).flip(1)
    assert torch.equal(turned, coded)


def test_jpeg_is_pillows():
    import io

    pillow = pytest.importorskip('PIL.Image')
    pixels = (smooth_image()[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    stored = io.BytesIO()
    pillow.fromarray(pixels).save(stored, 'JPEG', quality=30)
    expected = np.asarray(pillow.open(stored)) / 255.0
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    coded = build(dict(type='jpeg', channels='rgb'))(image, 30)[0].permute(1, 2, 0).numpy()
    # Another build of the same library: a level or two of 255.
    np.testing.assert_allclose(coded, expected, atol=3 / 255)


def test_jpeg_stores_grey_and_rounds():
    grey = smooth_image(channels=1)
    coded = build('jpeg')(grey, 100)
    assert coded.shape == grey.shape
    assert (coded - grey).abs().max() < 2 / 255
    torch.testing.assert_close(coded * 255, (coded * 255).round())
    assert not build('jpeg')(grey.requires_grad_(), 50).requires_grad


# --- Lipschitz constants, and where content goes ---

MOVES = [
    dict(type=name, padding=padding)
    for name in ('rotation', 'scaling')
    for padding in ('reflection', 'zeros')
]
SHAPES = [(1, 1), (1, 6), (8, 5), (21, 34)]


def fastest(transformation, image, ends, steps=160):
    """Largest difference quotient on a grid, by the transformation itself."""
    grid = torch.linspace(*ends, steps + 1, dtype=torch.float64)[:, None]
    moved = transformation.transform(image.expand(len(grid), -1, -1, -1), grid)
    return float((moved[1:] - moved[:-1]).flatten(1).norm(dim=1).max() / (grid[1] - grid[0]))


@pytest.mark.parametrize('cfg', MOVES, ids=label)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('make', [rough_image, smooth_image])
def test_no_move_is_faster_than_its_lipschitz_constant(cfg, shape, make):
    transformation = build(cfg)
    image = rough_image(*shape) if max(shape) == 1 else make(*shape)
    short = [(0.3, 0.35), (-2.0, -1.9), (44.9, 45.1), (0.0, 0.1), (89.8, 90.2)]
    if cfg['type'] == 'scaling':
        short = [(0.97, 1.03), (1.0, 1.02), (0.5, 0.52), (2.0, 2.05), (0.1, 0.101)]
    for ends in [*short, (-3, 4) if cfg['type'] == 'rotation' else (0.7, 1.4)]:
        bound = float(transformation.lipschitz(image, *ends))
        assert fastest(transformation, image, ends) <= bound * (1 + 1e-9) + 1e-9
    wide = (-3, 4) if cfg['type'] == 'rotation' else (0.7, 1.4)
    for ends in (wide, short[0]):
        true = fastest(transformation, image, ends, 1200)
        assert float(transformation.lipschitz(image, *ends)) <= 1.8 * true + 1e-9


def test_the_lipschitz_constant_of_a_smooth_image_is_nearly_its_speed():
    image = smooth_image(60, 80)
    for cfg, ends in ((MOVES[0], (-1.0, 1.0)), (MOVES[2], (0.98, 1.02))):
        true = fastest(build(cfg), image, ends)
        assert true <= float(build(cfg).lipschitz(image, *ends)) <= 1.05 * true


def test_lipschitz_constants_are_those_of_each_image_and_scale_with_it():
    rotation, images = build('rotation'), torch.cat([rough_image(seed=k) for k in range(2)])
    both = rotation.lipschitz(images, -0.2, 0.3)
    assert both.shape == (2, 1) and both.dtype == torch.float64
    torch.testing.assert_close(both[1:], rotation.lipschitz(images[1:], -0.2, 0.3))
    torch.testing.assert_close(2 * both, rotation.lipschitz(2 * images, -0.2, 0.3))
    torch.testing.assert_close(
        rotation.lipschitz(images.float(), -0.2, 0.3), both, rtol=1e-5, atol=0
    )
    assert (rotation.lipschitz(torch.full_like(images, 0.7), -2, 2) < 1e-12).all()
    assert (rotation.lipschitz(images, 0.1, 0.1) == 0).all()


def test_intervals_and_classes_without_a_lipschitz_constant_are_refused():
    for cfg, ends, message in [
        ('rotation', (1.0, -1.0), 'low <= high, got 1.0 and -1.0'),
        ('scaling', (0.0, 1.0), r'\[0.1, 10\]'),
        ('translation', (0.0, 1.0), 'no proven Lipschitz constant'),
    ]:
        with pytest.raises(ValueError, match=message):
            build(cfg).lipschitz(rough_image(), *ends)


@pytest.mark.parametrize('cfg', [MOVES[0], MOVES[2]], ids=label)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_content_is_found_among_the_pixels_that_it_may_reach(cfg, shape):
    transformation, (height, width) = build(cfg), shape
    numbers = torch.arange(height * width).reshape(1, height, width)
    intervals = [(-0.4, 0.3), (0.0, 0.2), (44.0, 46.5), (-20.0, 15.0)]
    if cfg['type'] == 'scaling':
        intervals = [(0.99, 1.005), (1.0, 1.03), (0.1, 0.3), (0.8, 1.7)]
    for low, high in intervals:
        reached = transformation.reached(low, high, height, width)
        assert reached.shape[1:] == shape and reached.min() >= -1
        found = set()
        for u in torch.linspace(low, high, 300, dtype=torch.float64):
            at = transformation.labels_of_content(numbers, u, ignore_index=-1)[0]
            assert (reached == at).any(dim=0).all()
            found |= set(zip(at.flatten().tolist(), range(numbers.numel()), strict=True))
        # And hardly any others.
        claimed = {
            (pixel, v) for layer in reached for v, pixel in enumerate(layer.flatten().tolist())
        }
        assert len(claimed) <= 1.35 * len(found) + 4
    with pytest.raises(ValueError, match='low <= high'):
        transformation.reached(1.2, 1.1, height, width)


@pytest.mark.parametrize('shape', [(1, 6), (8, 5), (13, 18)], ids=str)
def test_content_is_found_among_the_pixels_that_it_may_reach_in_a_box(shape):
    transformation, (height, width) = build('rotation_scaling'), shape
    numbers = torch.arange(height * width).reshape(1, height, width)
    rng = np.random.default_rng(0)
    for low, high in [
        ((-0.4, 0.99), (0.3, 1.02)), ((44.0, 1.4), (46.5, 1.4)), ((-2.0, 0.5), (2.0, 0.6)),
        ((7.0, 2.0), (7.0, 2.1)), ((0.0, 1.0), (0.0, 1.0)),
    ]:  # fmt: skip
        reached = transformation.reached(low, high, height, width)
        assert reached.shape[1:] == shape and reached.min() >= -1
        found = set()
        for share in rng.uniform(-0.2, 1.2, (300, 2)).clip(0, 1):
            u = torch.tensor(low + share * (np.array(high) - low))
            at = transformation.labels_of_content(numbers, u, ignore_index=-1)[0]
            assert (reached == at).any(dim=0).all()
            found |= set(zip(at.flatten().tolist(), range(numbers.numel()), strict=True))
        claimed = {
            (pixel, v) for layer in reached for v, pixel in enumerate(layer.flatten().tolist())
        }
        assert len(claimed) <= 1.5 * len(found) + 4


@pytest.mark.parametrize('padding', ['reflection', 'zeros', 'cyclic'])
def test_reading_is_the_same_with_a_forward_derivative_and_that_is_the_backward_one(padding):
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, 6, 9, generator=generator, dtype=torch.float64)
    positions = 12 * torch.rand(2, 5, 4, 2, generator=generator, dtype=torch.float64) - 6
    direction = torch.randn(positions.shape, generator=generator, dtype=torch.float64)

    def read(places):
        return read_bilinear(images, places, padding)

    values, forward = torch.func.jvp(read, (positions,), (direction,))
    torch.testing.assert_close(values, read(positions), rtol=0, atol=1e-12)
    weights = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    positions.requires_grad_()
    (read(positions) * weights).sum().backward()
    assert (forward * weights).sum() == pytest.approx(float((positions.grad * direction).sum()))
    assert forward.abs().max() > 0.1
