"""From what happens to a camera to the parameter of a transformation.

A pinhole camera with a thin lens, after any textbook of optics: angles and distances become pixels,
stops of exposure become factors. What the formulas leave out is said where they are.
"""

import math
from dataclasses import dataclass, fields

ENCODING_GAMMA = 2.2
"""Images of cameras store about the 2.2th root of the light."""

MID_GREY = 0.18
"""Share of the light that a surface of medium brightness reflects, by convention."""


@dataclass(frozen=True)
class Camera:
    """A camera, and the width of its images where the transformation acts.

    That is the image as it reaches the smoothed (or base) model, before any scaling inside it:
    parameters in pixels are in pixels of that image.

    Attributes:
        focal_mm (float): Focal length.
        f_number (float): Focal length over the diameter of the aperture.
        sensor_mm (float): Width of the part of the sensor that the image shows.
        width_px (int): Width of the image in pixels.

    Raises:
        ValueError: If a value is not positive and finite.

    Example:
        >>> camera = Camera(focal_mm=6, f_number=2, sensor_mm=6.9, width_px=240)
        >>> round(camera.focal_px, 1), round(camera.turned(1.0), 2)
        (208.7, 3.64)
    """

    focal_mm: float
    f_number: float
    sensor_mm: float
    width_px: int

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_positive(field.name, getattr(self, field.name))

    @property
    def pixel_mm(self) -> float:
        """Width of a pixel of the image on the sensor."""
        return self.sensor_mm / self.width_px

    @property
    def focal_px(self) -> float:
        """The focal length in pixels of the image."""
        return self.focal_mm / self.pixel_mm

    @property
    def field_of_view(self) -> float:
        """Horizontal field of view, in degrees."""
        return 2 * math.degrees(math.atan(self.width_px / 2 / self.focal_px))

    def turned(self, degrees: float, at: float = 0.0) -> float:
        """Pixels that content moves as the camera pitches (vertically) or yaws (horizontally).

        f (tan(at + degrees) - tan(at)), for content ``at`` so many degrees from the optical axis.
        At the centre it is f tan(degrees); towards the border it is more, so that a shift of the
        whole image is an approximation.

        Raises:
            ValueError: If the content comes from or goes to 90 degrees or more.
        """
        if max(abs(at), abs(at + degrees)) >= 90:
            raise ValueError(f'content must stay within 90 degrees, got {at} and {at + degrees}')
        last, first = (math.tan(math.radians(angle)) for angle in (at + degrees, at))
        return self.focal_px * (last - first)

    def passed(self, metres: float, distance: float) -> float:
        """Pixels that an object ``distance`` metres away moves as it moves sideways by ``metres``.

        f metres / distance. The same where the camera moves sideways, for all that is as far away.
        """
        return self.focal_px * metres / _check_positive('distance', distance)

    def zoomed(self, focal_mm: float) -> float:
        """The factor by which content grows as the lens zooms to another focal length."""
        return _check_positive('focal_mm', focal_mm) / self.focal_mm

    def approached(self, metres: float, distance: float) -> float:
        """The factor by which an object grows as the camera comes ``metres`` nearer.

        distance / (distance - metres), for an object that was ``distance`` metres away.
        """
        left = _check_positive('distance left', distance - metres)
        return _check_positive('distance', distance) / left

    def defocus_radius(self, distance: float, focused: float) -> float:
        """Radius in pixels of the disc that a point ``distance`` metres away becomes.

        Half the circle of confusion of a thin lens of focal length f and f-number N, focused at s:
        c = f^2 / N * |1/s - 1/d| / (1 - f/s). Either distance may be infinite.

        Raises:
            ValueError: If the lens cannot be focused so near, or a distance is not positive.
        """
        f = self.focal_mm / 1000
        if not (distance > 0 and focused > f):
            raise ValueError(
                f'distances must be positive and the focus beyond {f:g} m, the focal length; got '
                f'{distance} and {focused}'
            )
        blur = f**2 / self.f_number * abs(1 / focused - 1 / distance) / (1 - f / focused)
        return blur * 1000 / self.pixel_mm / 2


def vibrated(amplitude: float, hertz: float, shutter: float) -> float:
    """Largest angle that a vibration sweeps while the shutter is open, in the amplitude's unit.

    For amplitude sin(2 pi hertz t) and a shutter of so many seconds: 2 amplitude sin(pi hertz
    shutter) up to half a period, then all of 2 amplitude.

    >>> round(vibrated(0.1, hertz=50, shutter=1 / 100), 3), round(vibrated(0.1, 50, 1 / 600), 3)
    (0.2, 0.052)
    """
    return 2 * amplitude * math.sin(math.pi * min(hertz * shutter, 0.5))


def exposed(stops: float, gamma: float = ENCODING_GAMMA) -> float:
    """The ``log_factor`` of a contrast with pivot 'zero' that exposes so many stops (EV) more.

    A stop doubles the light, so linear images are multiplied by 2^stops (``gamma`` 1). An image
    that stores the gamma-th root of the light is multiplied by 2^(stops / gamma): the logarithm is
    stops ln(2) / gamma. What saturates is not clipped.

    >>> round(exposed(1, gamma=1), 3), round(exposed(1), 3)
    (0.693, 0.315)
    """
    return stops * math.log(2) / _check_positive('gamma', gamma)


def brightened(stops: float, gamma: float = ENCODING_GAMMA, light: float = MID_GREY) -> float:
    """The brightness shift that does to one grey, by default a medium one, what stops do to it.

    light^(1/gamma) (2^(stops / gamma) - 1), in [0, 1] image units. Darker values are shifted by
    more than the exposure would, brighter ones by less.

    >>> round(brightened(1 / 3), 3)
    0.051
    """
    return light ** (1 / gamma) * math.expm1(exposed(stops, gamma))


def _check_positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f'{name} must be positive and finite, got {value}')
    return value
