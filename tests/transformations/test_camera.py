"""A camera's parameters, against projected points, traced rays and encoded light."""

import math

import numpy as np
import pytest
import torch

from mmcert.transformations import build
from mmcert.transformations.camera import Camera, brightened, exposed, vibrated

CAMERA = Camera(focal_mm=6, f_number=2, sensor_mm=6.9, width_px=240)


def project(point):
    """Where a pinhole camera sees a point (x, y, z), in pixels from the centre."""
    x, y, z = point
    return CAMERA.focal_mm * np.array([x, y]) / z / (CAMERA.sensor_mm / CAMERA.width_px)


def turn(degrees, axis):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == 'pitch':
        return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    if axis == 'yaw':
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize(('axis', 'row'), [('yaw', 0), ('pitch', 1)])
@pytest.mark.parametrize('at', [0.0, 20.0, -15.0])
@pytest.mark.parametrize('degrees', [0.5, -2.0, 10.0])
def test_a_turned_camera_moves_what_a_pinhole_projects(axis, row, at, degrees):
    point = np.zeros(3)
    point[row], point[2] = math.sin(math.radians(at)), math.cos(math.radians(at))
    moved = project(turn(degrees, axis) @ point) - project(point)
    assert moved[row] == pytest.approx(CAMERA.turned(degrees, at))
    assert moved[1 - row] == pytest.approx(0, abs=1e-9)


def test_a_rolled_camera_rotates_the_image_by_as_many_degrees():
    point = np.array([0.3, -0.2, 1.0])
    rolled = project(turn(7.0, 'roll') @ point)
    matrix, _ = build('rotation').affine(torch.tensor([[7.0]], dtype=torch.float64))
    np.testing.assert_allclose(rolled, matrix[0].numpy() @ project(point))


def test_moves_and_zoom_are_what_a_pinhole_projects():
    point = np.array([1.5, 0.5, 10.0])
    sideways = project(point + np.array([0.4, 0, 0])) - project(point)
    assert sideways[0] == pytest.approx(CAMERA.passed(0.4, distance=10))
    nearer = project(point - np.array([0, 0, 2.0]))
    np.testing.assert_allclose(nearer, CAMERA.approached(2.0, distance=10) * project(point))
    longer = Camera(7.5, 2, 6.9, 240)
    assert CAMERA.zoomed(7.5) == pytest.approx(longer.focal_px / CAMERA.focal_px) == 1.25
    assert CAMERA.field_of_view == pytest.approx(2 * math.degrees(math.atan(6.9 / 2 / 6)))


@pytest.mark.parametrize('focused', [0.3, 2.0, 1e9])
@pytest.mark.parametrize('distance', [0.5, 5.0, 1e9])
def test_a_defocused_point_is_as_large_as_traced_rays_make_it(distance, focused):
    f = CAMERA.focal_mm / 1000
    sensor, image = (1 / (1 / f - 1 / d) for d in (focused, distance))
    # The cone from the aperture to the image point, cut by the sensor.
    aperture = f / CAMERA.f_number
    diameter = aperture * abs(sensor - image) / image
    radius = diameter / 2 * 1000 / (CAMERA.sensor_mm / CAMERA.width_px)
    assert CAMERA.defocus_radius(distance, focused) == pytest.approx(radius, rel=1e-5, abs=1e-7)
    if distance == focused:
        assert radius == 0
    if focused == 1e9:
        assert CAMERA.defocus_radius(distance, math.inf) == pytest.approx(radius, abs=1e-7)


@pytest.mark.parametrize('shutter', [1 / 1000, 1 / 150, 1 / 60, 1 / 3])
def test_a_vibration_sweeps_no_more_than_its_worst_phase(shutter):
    times = np.linspace(0, shutter, 2001)
    swept = [
        np.ptp(0.2 * np.sin(2 * math.pi * 50 * times + phase))
        for phase in np.linspace(0, 2 * math.pi, 721)
    ]
    assert max(swept) == pytest.approx(vibrated(0.2, 50, shutter), rel=1e-3)


@pytest.mark.parametrize('gamma', [1.0, 2.2])
@pytest.mark.parametrize('stops', [-1.0, 1 / 3, 2.0])
def test_stops_multiply_the_light_behind_the_encoding(stops, gamma):
    image = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    light = image**gamma
    expected = (2**stops * light) ** (1 / gamma)
    contrast = build(dict(type='contrast', pivot='zero'))
    torch.testing.assert_close(contrast(image, exposed(stops, gamma)), expected)
    grey = 0.18 ** (1 / gamma)
    shifted = grey + brightened(stops, gamma)
    assert shifted == pytest.approx((2**stops * 0.18) ** (1 / gamma))


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: Camera(0, 2, 6.9, 240), 'focal_mm must be positive'),
        (lambda: Camera(6, 2, math.nan, 240), 'sensor_mm must be positive'),
        (lambda: CAMERA.turned(1, at=89.5), 'within 90 degrees'),
        (lambda: CAMERA.approached(10, distance=10), 'distance left must be positive'),
        (lambda: CAMERA.passed(1, distance=0), 'distance must be positive'),
        (lambda: CAMERA.zoomed(-1), 'focal_mm must be positive'),
        (lambda: CAMERA.defocus_radius(0, 1), 'distances must be positive'),
        (lambda: CAMERA.defocus_radius(5, 0.005), 'focus beyond 0.006 m'),
        (lambda: exposed(1, gamma=0), 'gamma must be positive'),
    ],
)
def test_impossible_cameras_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
