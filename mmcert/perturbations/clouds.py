"""Transformations of point clouds that compose exactly, and so are certified directly.

The labels travel with the points' indices and nothing is interpolated.

A taper by the factor 1 + t z is not offered: applied twice it is no taper of that form, so
smoothing over t says nothing about it. ``Taper`` is the one with the factor exp(t z).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from mmcert.certify.checks import check_tau
from mmcert.certify.rounding import AtLeast, AtMost
from mmcert.perturbations.base import check_flag, register
from mmcert.perturbations.distributions import STANDARD_NORMAL
from mmcert.perturbations.lattice import POINTS
from mmcert.perturbations.noise import POINT_UNIT
from mmcert.perturbations.noise_level import validate_positive
from mmcert.perturbations.parametric import ParametricTransformation
from mmcert.perturbations.worst_sets import largest_rotation

Axis = str | Sequence[float]
"""'x', 'y', 'z', or a unit vector."""

AXES: dict[str, tuple[float, float, float]] = {'x': (1, 0, 0), 'y': (0, 1, 0), 'z': (0, 0, 1)}

STAGE = (
    'attack and smoothing act at the same stage, on the coordinates as the pipeline delivers them, '
    'before voxelisation, cropping or normalisation inside the model'
)


class PointTransformation(ParametricTransformation):
    """A transformation of all points of a cloud, rounded to multiples of 2^-20.

    With ``normals``, the cloud has six columns, and the normals in the last three are transformed
    as well. All other columns stay as they are.

    Args:
        sigma (float): Standard deviation of each parameter; in the classes below, of one or two.
        axis (str | Sequence[float]): Where a class has one: 'x', 'y', 'z' or a unit vector.
        normals (bool): Where a class has it: whether the normals rotate as well.

    Raises:
        ValueError: If a sigma is not positive and finite, or the axis no unit vector.
    """

    domain = 'points'
    component = 'point'
    distribution = 'N(0, sigma^2)'
    norm = 'absolute value'
    unit = POINT_UNIT
    rounding = (
        f'the smoothed function first rounds the transformed cloud to multiples of {1 / POINTS:.4g}'
    )
    points_per_unit = POINTS
    normals: bool = False
    axis: str | list[float] = 'z'
    _num_entries = 1

    def __init__(self, sigma: float) -> None:
        self.sigma = validate_positive(sigma)
        self.scales = (self.sigma,) * self._num_entries

    @property
    def num_columns(self) -> int:  # type: ignore[override]
        """6 with normals, else 3."""
        return 6 if self.normals else 3

    @property
    def stage(self) -> str:  # type: ignore[override]
        """The normals and other columns, and where attack and smoothing act."""
        with_normals = 'the normals rotate with the points, and all other columns stay as they are'
        without = 'all other columns, normals included, stay as they are'
        return f'{with_normals if self.normals else without}; {STAGE}'

    def check_shape(self, inputs: torch.Tensor) -> None:
        """Refuses what is no cloud (N, 3) of floating point numbers, or (N, 6) with normals."""
        if inputs.ndim != 2 or inputs.shape[1] != self.num_columns:
            what = 'coordinates and normals' if self.normals else 'coordinates alone'
            raise ValueError(
                f'expected {what}, shape (N, {self.num_columns}), got {tuple(inputs.shape)}'
            )
        if not inputs.is_floating_point():
            raise ValueError(f'coordinates must be floating point, got {inputs.dtype}')

    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        points = self._move(inputs[:, :3], parameter)
        if not self.normals:
            return points
        return torch.cat([points, self._turn_normals(inputs[:, 3:], parameter)], dim=1)

    @abstractmethod
    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The transformed coordinates, shape (N, 3)."""

    def _turn_normals(self, normals: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The rotated normals, shape (N, 3); by default as the coordinates."""
        return self._move(normals, parameter)

    def _attack(self, tau: float) -> str:
        radius = self.radius(tau)
        return self.attack_text.format(
            radius=AtMost(radius),
            unit=self.unit,
            axis=_axis_words(self.axis),
            angle=_angle_words(radius),
            least=AtLeast(math.exp(-radius)),
        )


class _AboutAxis(PointTransformation):
    """A transformation about an axis through the origin."""

    def __init__(self, sigma: float, axis: Axis = 'z') -> None:
        super().__init__(sigma)
        self.axis = _checked_axis(axis)


@register
class AxisRotation(_AboutAxis):
    """Rotation about a fixed axis through the origin, by a Gaussian angle.

    Angles add, T_a(T_b x) = T_{a+b} x. From a radius of pi on, every rotation about the axis is
    covered.

    Args:
        sigma (float): Standard deviation of the angle, in radians.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.
        normals (bool): Whether the normals rotate as well.

    Example:
        >>> rotation = AxisRotation(sigma=0.3)
        >>> round(rotation.radius(0.9), 4)
        0.3845
        >>> cloud = torch.tensor([[1.0, 0.0, 0.5]])
        >>> (moved,) = rotation.transform(cloud, torch.tensor([0.5])).tolist()
        >>> [round(value, 3) for value in moved]
        [0.878, 0.479, 0.5]
    """

    unit = 'radians'
    formula = '{rotation by xi about the axis through the origin : |xi| <= radius}'
    attack_text = 'rotation about {axis} {angle}'

    def __init__(self, sigma: float, axis: Axis = 'z', normals: bool = False) -> None:
        super().__init__(sigma, axis)
        self.normals = check_flag(normals, 'normals')

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _turn(points, self.axis, parameter[0])


@register
class Rotation3D(PointTransformation):
    r"""Rotation about any axis through the origin; certified by the angle of the attack.

    The axis-angle vector v is N(0, sigma^2 I_3), drawn anew until ||v|| <= pi. Rotations about
    different axes do not add, and the certificate speaks of the *angle* of the attacking rotation
    Q, whatever its axis: if a class has probability above tau, it keeps one above 1/2 at every Q
    of angle at most ``radius(tau)``. From pi on, every rotation is covered.

    The radius is the exact one, up to a bounded error of quadrature on its safe side, and at least
    sigma * (Phi^{-1}(tau) - Phi^{-1}(target)). The derivation is mmcert's own, checked numerically
    by the tests, and not from a paper:

    - With R = exp(v) and T_R(T_Q x) = T_{RQ} x, the smoothed probability is G(Q) = P(RQ in A) for
      a set A of rotations. Relative to the Haar measure, R has a density that depends on its angle
      t alone and falls with it: -t^2 / (2 sigma^2) + 2 log((t/2) / sin(t/2)) is its logarithm.
    - Rotations of the same angle are conjugate, and conjugation changes neither the Haar measure
      nor this density. So what the worst set of Neyman and Pearson keeps depends on the angle of Q
      alone.
    - It is the largest of int min(q, c p) - c (1 - tau) over c, with the densities p before and q
      after the attack. The sets {p >= y} and {q >= y} are balls, and what two balls of rotations
      share falls with the distance of their centres: the worst attack is at the largest angle.
    - The measure of what two balls share has a closed form. It is summed over levels y, always
      with its smaller value, so that every sum is a lower bound.
    - The score of the attack is below that of additive Gaussian noise in the convex order. Hence
      G(Q) > Phi(Phi^{-1}(tau) - angle(Q) / sigma): the bound in closed form.

    Args:
        sigma (float): Standard deviation of each entry of v, in radians, at most 1.
        normals (bool): Whether the normals rotate as well.

    Example:
        >>> rotation = Rotation3D(sigma=0.5)
        >>> round(rotation.radius(0.9), 2), round(AxisRotation(sigma=0.5).radius(0.9), 2)
        (0.67, 0.64)
    """

    distribution = (
        'N(0, sigma^2 I_3) of the axis-angle vector, drawn anew until its norm is at most pi'
    )
    norm = 'angle of the rotation, about any axis'
    unit = 'radians'
    formula = '{rotation about any axis through the origin : its angle <= radius}'
    attack_text = 'rotation about any axis through the origin {angle}'
    _num_entries = 3

    def __init__(self, sigma: float, normals: bool = False) -> None:
        super().__init__(sigma)
        if self.sigma > 1:
            raise ValueError(
                f'Rotation3D takes sigma (radians) up to 1, got {sigma}: larger angles wrap around '
                'too often'
            )
        self.normals = check_flag(normals, 'normals')

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws axis-angle vectors of norm at most pi, shape (B, 3), float64."""
        vectors = super().draw(inputs, generators)
        for index, generator in enumerate(generators):
            while torch.linalg.vector_norm(vectors[index]) > math.pi:
                vectors[index] = super().draw(inputs, [generator])[0]
        return vectors

    def radius(self, tau: float, target: float = 0.5) -> float:
        """Largest angle of a rotation, in radians; see the class and ``Perturbation``."""
        tau, target = check_tau(tau), check_tau(target)
        return largest_rotation(tau, self.sigma, target) if target < tau else 0.0

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        # Rodrigues' formula without a division by the angle, which may be 0.
        angle = torch.linalg.vector_norm(parameter)
        axis = parameter.expand_as(points)
        once = torch.linalg.cross(axis, points)
        twice = torch.linalg.cross(axis, once)
        first = torch.sinc(angle / math.pi)
        second = 0.5 * torch.sinc(angle / (2 * math.pi)).square()
        return points + first * once + second * twice

    def _extra(self, tau: float) -> dict[str, Any]:
        own = "mmcert's own, in the docstring of Rotation3D, with numeric checks; not from a paper"
        return {'derivation': own}


@register
class PointTranslation(PointTransformation):
    """Translation of all points by the same Gaussian vector, T_a(T_b x) = T_{a+b} x.

    Args:
        sigma (float): Standard deviation of each entry, in the unit of the coordinates.
    """

    distribution = 'N(0, sigma^2 I_3)'
    norm = 'l2'
    attack_text = 'translation of the whole cloud by up to {radius:.4g} (in {unit})'
    _num_entries = 3
    formula = '{translation of all points by xi : ||xi||_2 <= radius}'

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return points + parameter


@register
class LogScale(PointTransformation):
    """Scaling of all coordinates about the origin by e^s with Gaussian s, T_a(T_b x) = T_{a+b} x.

    Unit normals are the same before and after.

    Args:
        sigma (float): Standard deviation of s, the natural logarithm of the factor.
    """

    unit = 'natural logarithm of the factor'
    formula = '{scaling about the origin by e^xi : |xi| <= radius}'
    attack_text = (
        'scaling about the origin by a factor from e^-{radius:.4g} = {least:.4g} to its inverse'
    )

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return points * parameter.exp()


@register
class Shear(PointTransformation):
    """Shear: coordinates grow in proportion to another one, as x += a z, y += b z.

    The coordinate on ``axis`` stays as it is, so T_a(T_b x) = T_{a+b} x.

    Args:
        sigma (float): Standard deviation of each coefficient, a number without unit.
        along (str): The coordinates that are displaced: 'xy', or one of them.
        axis (str): The coordinate that they are displaced in proportion to; not in ``along``.

    Raises:
        ValueError: If the coordinates are not as above.
    """

    norm = 'l2'
    unit = 'coefficients, without unit'

    def __init__(self, sigma: float, along: str = 'xy', axis: str = 'z') -> None:
        if not isinstance(axis, str) or axis not in AXES:
            raise ValueError(f"axis of a shear must be 'x', 'y' or 'z', got {axis!r}")
        others = [name for name in AXES if name != axis]
        if not isinstance(along, str) or along not in (*others, ''.join(others)):
            raise ValueError(
                f'along must be {others[0]!r}, {others[1]!r} or {"".join(others)!r} for a shear in '
                f'proportion to {axis}, got {along!r}'
            )
        self._num_entries = len(along)
        super().__init__(sigma)
        self.along, self.axis = along, axis
        self.distribution = f'N(0, sigma^2 I_{len(along)})'
        factors = zip(along, 'ab', strict=False)
        terms = ', '.join(f'{name} += {factor} {axis}' for name, factor in factors)
        self.formula = f'{{{terms} : l2 norm of the coefficients <= radius}}'
        norm = '|a|' if len(along) == 1 else 'sqrt(a^2 + b^2)'
        self.attack_text = f'shear {terms} with {norm} up to {{radius:.4g}}'

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        direction = sum(
            factor * _unit_vector(name, points)
            for factor, name in zip(parameter, self.along, strict=True)
        )
        return points + _heights(points, self.axis) * direction


@register
class Twist(_AboutAxis):
    """Rotation about an axis through the origin by an angle proportional to the height along it.

    The heights stay as they are, so T_a(T_b x) = T_{a+b} x.

    Args:
        sigma (float): Standard deviation of the rate, in radians per unit of the coordinates.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.
    """

    unit = 'radians per unit of the coordinates as the pipeline delivers them'
    formula = '{rotation about the axis by xi * (height along it) : |xi| <= radius}'
    attack_text = 'twist about {axis} by up to {radius:.4g} {unit}'

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _turn(points, self.axis, parameter[0] * _heights(points, self.axis))


@register
class Taper(_AboutAxis):
    """Scaling towards an axis through the origin by e^{t h}, with h the height along the axis.

    The heights stay as they are, so T_a(T_b x) = T_{a+b} x.

    Args:
        sigma (float): Standard deviation of t, in 1 / unit of the coordinates.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.
    """

    unit = '1 / unit of the coordinates as the pipeline delivers them'
    formula = '{distances from the axis times e^(xi * height along it) : |xi| <= radius}'
    attack_text = (
        'taper e^(t h) towards {axis}, h being the height along it, with |t| up to {radius:.4g} '
        '{unit}'
    )

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        heights = _heights(points, self.axis)
        kept = heights * _unit_vector(self.axis, points)
        return kept + (points - kept) * (parameter[0] * heights).exp()


class _TwoParameters(PointTransformation):
    """Two commuting families: the attack set is an ellipse, ``radius`` that of its unit sphere.

    ``units`` has the names of both parameters, and the unit of each.
    """

    distribution = 'independent N(0, sigma_k^2) of the two parameters'
    norm = 'l2 of the parameters, each divided by its sigma'
    unit = 'standard deviations of the parameters; semi_axes has the units of each'
    units: dict[str, str]

    def radius(self, tau: float, target: float = 0.5) -> float:
        """Phi^{-1}(tau) - Phi^{-1}(target): the l2 norm of parameters divided by their sigmas."""
        return STANDARD_NORMAL.radius(tau, target)

    def semi_axes(self, tau: float) -> dict[str, float]:
        """How far the attack may go in each parameter alone, by its name."""
        radius = self.radius(tau)
        return {name: scale * radius for name, scale in zip(self.units, self.scales, strict=True)}

    def _extra(self, tau: float) -> dict[str, Any]:
        return {'semi_axes': self.semi_axes(tau), 'semi_axes_units': self.units}

    def _attack(self, tau: float) -> str:
        moved = super()._attack(tau)
        sizes = ' and '.join(
            f'{name} up to {AtMost(size):.4g} ({self.units[name]})'
            for name, size in self.semi_axes(tau).items()
        )
        return f'{moved}, within the ellipse of {sizes},'


@register
class TwistRotation(_TwoParameters):
    """Twist and rotation about the same axis: the angle a h + b at height h along it.

    The heights stay as they are and the angles add, so T_a(T_b x) = T_{a+b} x for the pairs.

    Args:
        sigma_twist (float): Standard deviation of a, in radians per unit of the coordinates.
        sigma_rotation (float): Standard deviation of b, in radians.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.
    """

    units = {'twist': Twist.unit, 'rotation': 'radians'}
    attack_text = 'twist with a rotation about {axis}'
    formula = (
        '{rotation about the axis by a * (height along it) + b : '
        '(a / sigma_twist)^2 + (b / sigma_rotation)^2 <= radius^2}'
    )

    def __init__(self, sigma_twist: float, sigma_rotation: float, axis: Axis = 'z') -> None:
        self.sigma_twist = validate_positive(sigma_twist, 'sigma_twist')
        self.sigma_rotation = validate_positive(sigma_rotation, 'sigma_rotation')
        self.scales, self.axis = (self.sigma_twist, self.sigma_rotation), _checked_axis(axis)

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        twist, angle = parameter
        return _turn(points, self.axis, twist * _heights(points, self.axis) + angle)


@register
class RotationScale(_TwoParameters):
    """Rotation about a fixed axis and scaling about the origin by e^s.

    The two commute, so T_a(T_b x) = T_{a+b} x for the pairs (angle, s).

    Args:
        sigma_rotation (float): Standard deviation of the angle, in radians.
        sigma_scale (float): Standard deviation of s, the natural logarithm of the factor.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.
        normals (bool): Whether the normals rotate as well.
    """

    units = {'rotation': 'radians', 'scale': LogScale.unit}
    attack_text = 'rotation about {axis} with a scaling about the origin'
    formula = (
        '{rotation by a about the axis and scaling by e^s about the origin : '
        '(a / sigma_rotation)^2 + (s / sigma_scale)^2 <= radius^2}'
    )

    def __init__(
        self, sigma_rotation: float, sigma_scale: float, axis: Axis = 'z', normals: bool = False
    ) -> None:
        self.sigma_rotation = validate_positive(sigma_rotation, 'sigma_rotation')
        self.sigma_scale = validate_positive(sigma_scale, 'sigma_scale')
        self.scales = (self.sigma_rotation, self.sigma_scale)
        self.axis, self.normals = _checked_axis(axis), check_flag(normals, 'normals')

    def _move(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        angle, log_factor = parameter
        return _turn(points, self.axis, angle) * log_factor.exp()

    def _turn_normals(self, normals: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _turn(normals, self.axis, parameter[0])


def _angle_words(radius: float) -> str:
    if radius >= math.pi:
        return 'by any angle'
    angle, degrees = AtMost(radius), AtMost(math.degrees(radius))
    return f'by an angle up to {angle:.4g} rad ({degrees:.4g} degrees)'


def _axis_words(axis: str | list[float]) -> str:
    if isinstance(axis, str):
        return f'the {axis} axis through the origin'
    return f'the axis ({", ".join(f"{value:.4g}" for value in axis)}) through the origin'


def _checked_axis(axis: Axis) -> str | list[float]:
    """Checks an axis: its name, or a list of the three entries of a unit vector."""
    if isinstance(axis, str):
        if axis in AXES:
            return axis
    else:
        try:
            vector = [float(value) for value in axis]
        except (TypeError, ValueError):
            vector = []
        if len(vector) == 3 and abs(math.hypot(*vector) - 1) <= 1e-6:
            return vector
    raise ValueError(f"axis must be 'x', 'y', 'z' or a unit vector of 3 numbers, got {axis!r}")


def _unit_vector(axis: str | list[float], points: torch.Tensor) -> torch.Tensor:
    """The axis as a tensor like the points, shape (3,), of norm 1 up to rounding."""
    entries = AXES[axis] if isinstance(axis, str) else axis
    norm = math.hypot(*entries)
    return points.new_tensor([value / norm for value in entries])


def _heights(points: torch.Tensor, axis: str | list[float]) -> torch.Tensor:
    """Height of each point along the axis, shape (N, 1)."""
    return (points * _unit_vector(axis, points)).sum(dim=1, keepdim=True)


def _turn(points: torch.Tensor, axis: str | list[float], angle: torch.Tensor) -> torch.Tensor:
    """Rotates points, shape (N, 3), about an axis by one angle, or by one for each, (N, 1)."""
    direction = _unit_vector(axis, points)
    kept = _heights(points, axis) * direction
    turned = torch.linalg.cross(direction.expand_as(points), points)
    return kept + angle.cos() * (points - kept) + angle.sin() * turned
