"""Perturbations of point clouds: noise on the coordinates, and transformations of all points.

The labels travel with the points' indices and nothing is interpolated, so a transformation family
with T_a(T_b x) = T_{a+b} x can be smoothed over its parameter directly: the smoothed model at T_b x
averages over N(b, sigma^2 I) instead of N(0, sigma^2 I), and the radius of Gaussian noise holds in
the space of the parameter. Transformed clouds are computed in double precision, which is taken as
exact, and rounded to a grid before the model sees them: a certificate speaks of an attack that is
computed as precisely, and not of a copy of it in single precision.

A taper by the factor 1 + t z is not offered: applied twice it is no taper of that form, so
smoothing over t says nothing about it. ``Taper`` is the one with the factor exp(t z).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from scipy.special import ndtri

from mmcert.certify.checks import check_tau
from mmcert.perturbations.base import Perturbation
from mmcert.perturbations.gaussian import GaussianNoise
from mmcert.perturbations.lattice import POINTS, on_grid, points_per_unit, rounded
from mmcert.perturbations.noise_level import validate_positive
from mmcert.perturbations.standard import fill_normal

UNIT = 'units of the coordinates as the pipeline delivers them'

STAGE = (
    'attack and smoothing act at the same stage, on the coordinates as the pipeline delivers them, '
    'before voxelisation, cropping or normalisation inside the model'
)

OTHERS_STAY = 'all other columns, normals included, stay as they are'
NORMALS_ROTATE = 'the normals rotate with the points, and all other columns stay as they are'

Axis = str | Sequence[float]
"""'x', 'y', 'z', or a unit vector."""

AXES: dict[str, tuple[float, float, float]] = {'x': (1, 0, 0), 'y': (0, 1, 0), 'z': (0, 0, 1)}


def check_scale(sigma: float, points: torch.Tensor) -> None:
    """Refuses a noise level larger than the cloud: a sign of a wrong unit.

    Args:
        sigma (float): Noise level, in the unit of the coordinates.
        points (torch.Tensor): The perturbed columns, shape (N, 3).

    Raises:
        ValueError: If sigma exceeds the largest extent of the cloud along an axis.
    """
    extent = float((points.amax(0) - points.amin(0)).max()) if len(points) else 0.0
    if not sigma <= extent:
        raise ValueError(
            f'sigma={sigma} exceeds the largest extent of the cloud, {extent:.4g}: sigma is in the '
            'unit of the coordinates as the pipeline delivers them'
        )


class CoordinateNoise(GaussianNoise):
    """I.i.d. Gaussian noise on the coordinates of all points.

    The certificate is that of ``GaussianNoise``, with the l2 norm over all points together:
    sqrt(sum of the squared displacements of the points). It holds for any columns: where an adapter
    perturbs others than x, y and z, its statement names them. Noise and sum are computed in double
    precision, and rounded to a grid of steps of at most sigma / 65,536, which is the first step of
    the function that is smoothed.

    Args:
        sigma (float): Noise level, in the unit of the coordinates as the pipeline delivers them.

    Raises:
        ValueError: If sigma is not a positive finite number.
    """

    domain = 'points'

    def __init__(self, sigma: float) -> None:
        self.sigma = validate_positive(sigma)

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses a cloud smaller than sigma: see ``check_scale``."""
        check_scale(self.sigma, inputs)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise, shape (B, N, 3), float64."""
        shape = (len(generators), *inputs.shape)
        noise = torch.empty(shape, dtype=torch.float64, device=inputs.device)
        return fill_normal(noise, generators, self.sigma)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds noise to the coordinates, changing it in place; see ``Perturbation``."""
        return on_grid(inputs.double(), parameters, self.sigma).to(inputs.dtype)

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The l2 ball that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        radius = self.radius(tau)
        return {
            'perturbation': 'CoordinateNoise',
            'law': 'N(0, sigma^2 I)',
            'sigma': self.sigma,
            'attack_set': (
                '{delta : ||delta||_2 <= radius}, added to the coordinates of the points; their '
                'number, their order and the columns without noise stay'
            ),
            'norm': 'l2',
            'radius': radius,
            'unit': UNIT,
            'rounding': (
                'the smoothed function first rounds the noisy coordinates to multiples of '
                f'{1 / points_per_unit(self.sigma):.4g}'
            ),
            'words': _words(
                f'no displacement of the points by an l2 norm up to {radius:.4g} (in {UNIT}, over '
                'all points together)',
                'the columns without noise stay as they are',
            ),
        }

    def spec(self) -> dict[str, Any]:
        """Class name and sigma."""
        return {'type': 'CoordinateNoise', 'sigma': self.sigma}

    def __repr__(self) -> str:
        """Class name and sigma."""
        return _repr(self.spec())


class PointTransformation(Perturbation):
    """One transformation of all points by a random parameter, with T_a(T_b x) = T_{a+b} x.

    The parameter theta has independent Gaussian entries. If a class has probability above tau
    under T_theta x, then under T_theta(T_xi x) = T_{theta+xi} x it keeps a probability above 1/2
    for every xi with sqrt(sum_k (xi_k / sigma_k)^2) <= Phi^{-1}(tau), by the argument for Gaussian
    noise in the space of the parameter. (``Rotation3D`` has another law, and its own argument.)

    Attributes:
        scales (tuple[float, ...]): Standard deviation of each parameter.
        num_parameters (int): Their number P.
    """

    domain = 'points'
    law = 'N(0, sigma^2)'
    norm = 'absolute value'
    unit = UNIT

    def __init__(self, *scales: float) -> None:
        self.scales = scales

    @property
    def num_parameters(self) -> int:
        """Number of parameters, P."""
        return len(self.scales)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws parameters, shape (B, P), float64."""
        shape = (len(generators), self.num_parameters)
        standard = torch.empty(shape, dtype=torch.float64, device=inputs.device)
        return fill_normal(standard, generators) * standard.new_tensor(self.scales)

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is no cloud (N, 3) of floating point numbers, or (N, 6) with normals."""
        _check_cloud(inputs, 6 if self.normals else 3)

    def transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """Transforms a cloud: what an attacker may do.

        Args:
            inputs (torch.Tensor): Coordinates, shape (N, 3), or (N, 6) with normals if ``normals``;
                unchanged by the call.
            parameter (torch.Tensor): Shape (P,).

        Returns:
            torch.Tensor: The transformed cloud, of the same shape.

        Raises:
            ValueError: If a shape is wrong, or the cloud is not of floating point.
        """
        self.check(inputs)
        parameter = torch.as_tensor(parameter)
        if parameter.shape != (self.num_parameters,):
            raise ValueError(
                f'{type(self).__name__} takes a parameter of shape ({self.num_parameters},), got '
                f'{tuple(parameter.shape)}'
            )
        parameter = parameter.to(inputs)
        points = self._transform(inputs[:, :3], parameter)
        if not self.normals:
            return points
        return torch.cat([points, self._rotate_normals(inputs[:, 3:], parameter)], dim=1)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Transforms the cloud, shape (N, 3) or (N, 6), by each of the parameters, shape (B, P).

        Computed in double precision and rounded to multiples of 2^-20, which is the first step of
        the function that is smoothed.
        """
        self.check(inputs)
        moved = (self.transform(inputs.double(), row) for row in parameters)
        return [rounded(cloud, POINTS).to(inputs.dtype) for cloud in moved]

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """The radius sigma * (Phi^{-1}(tau) - Phi^{-1}(floor)), in the parameter's unit."""
        return self.scales[0] * _margin(tau, floor)

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The transformations that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        radius = self.radius(tau)
        arguments = {name: value for name, value in self.spec().items() if name != 'type'}
        return {
            'perturbation': type(self).__name__,
            'law': self.law,
            **arguments,
            'attack_set': self._attack_set(),
            'norm': self.norm,
            'radius': radius,
            'unit': self.unit,
            'rounding': 'the smoothed function first rounds the transformed cloud to multiples of '
            f'{1 / POINTS:.4g}',
            'words': _words(
                f'no {self._attack_words(tau)}', NORMALS_ROTATE if self.normals else OTHERS_STAY
            ),
        }

    def __repr__(self) -> str:
        """Class name and arguments."""
        return _repr(self.spec())

    @abstractmethod
    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The transformed coordinates, shape (N, 3)."""

    def _rotate_normals(self, normals: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The rotated normals, shape (N, 3); by default as the coordinates."""
        return self._transform(normals, parameter)

    @abstractmethod
    def _attack_set(self) -> str:
        """The attack set as a formula."""

    @abstractmethod
    def _attack_words(self, tau: float) -> str:
        """The attack set at ``tau`` in words that follow a 'no'."""


class AxisRotation(PointTransformation):
    """Rotation about a fixed axis through the origin, by a Gaussian angle.

    Angles add, T_a(T_b x) = T_{a+b} x. From a radius of pi on, every rotation about the axis is
    covered.

    Args:
        sigma (float): Standard deviation of the angle, in radians.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.
        normals (bool): Whether the normals rotate as well.

    Raises:
        ValueError: If sigma is not positive and finite, or the axis no unit vector.
    """

    unit = 'radians'

    def __init__(self, sigma: float, axis: Axis = 'z', normals: bool = False) -> None:
        super().__init__(validate_positive(sigma))
        self.axis, self.normals = _checked_axis(axis), _flag(normals, 'normals')

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {
            'type': 'AxisRotation',
            'sigma': self.scales[0],
            'axis': self.axis,
            'normals': self.normals,
        }

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _turn(points, self.axis, parameter[0])

    def _attack_set(self) -> str:
        return '{rotation by xi about the axis through the origin : |xi| <= radius}'

    def _attack_words(self, tau: float) -> str:
        return f'rotation about {_axis_words(self.axis)} {_angle_words(self.radius(tau))}'


class Rotation3D(PointTransformation):
    r"""Rotation about any axis through the origin; certified by the angle of the attack.

    The axis-angle vector v is N(0, sigma^2 I_3), drawn anew until ||v|| <= pi. Rotations about
    different axes do not add, and the certificate speaks of the *angle* of the attacking rotation
    Q, whatever its axis: if a class has probability above tau, it keeps one above 1/2 at every Q
    of angle at most sigma * Phi^{-1}(tau). From pi on, every rotation is covered.

    This is mmcert's own derivation, checked numerically by the tests, and not from a paper:

    - With R = exp(v) and T_R(T_Q x) = T_{RQ} x, the smoothed probability is G(Q) = P(RQ in A) for
      a set A of rotations. Relative to the Haar measure, R has a density q that depends on its
      angle t alone: log q(t) = -t^2 / (2 sigma^2) + 2 log((t/2) / sin(t/2)) + const. It is
      positive and Lipschitz on the whole group, also where t = pi.
    - Along Q_s = exp(s e) for a unit vector e, the angle of R exp(s e) grows at the rate u, the
      cosine between e and the axis of R. Hence dG/ds = E[1_B(R) S] for B = A Q_s^{-1}, a set of
      probability G(Q_s), with the score S = w(t) u and
      w(t) = t / sigma^2 - (2/t - cot(t/2)).
    - (2/t - cot(t/2)) / t grows from 1/6 to 2/pi^2 on (0, pi], so |w(t)| <= t / sigma^2 whenever
      sigma <= pi. Given t, u is uniform on [-1, 1]. As u is symmetric, E phi(c u) grows with |c|
      for every convex phi, and t is at most what it would be without the rejection; therefore
      E phi(S) <= E phi(v'_e / sigma^2) with v'_e ~ N(0, sigma^2): S is below N(0, 1/sigma^2) in
      the convex order.
    - The largest E[1_B S] over sets of probability p is an integral of upper quantiles, monotone
      in the convex order: |dG/ds| <= pdf(Phi^{-1}(G)) / sigma, that is, Phi^{-1}(G(Q_s)) changes
      by at most 1 / sigma for each radian. So G(Q) > Phi(Phi^{-1}(tau) - angle(Q) / sigma), for
      every floor and not only 1/2.

    Args:
        sigma (float): Standard deviation of each entry of v, in radians, at most 1.
        normals (bool): Whether the normals rotate as well.

    Raises:
        ValueError: If sigma is not in (0, 1].
    """

    law = 'N(0, sigma^2 I_3) of the axis-angle vector, drawn anew until its norm is at most pi'
    norm = 'angle of the rotation, about any axis'
    unit = 'radians'

    def __init__(self, sigma: float, normals: bool = False) -> None:
        if validate_positive(sigma) > 1:
            raise ValueError(
                f'Rotation3D takes sigma (radians) up to 1, got {sigma}: larger angles wrap around '
                'too often'
            )
        super().__init__(*[float(sigma)] * 3)
        self.normals = _flag(normals, 'normals')

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws axis-angle vectors of norm at most pi, shape (B, 3), float64."""
        vectors = super().draw(inputs, generators)
        for index, generator in enumerate(generators):
            while torch.linalg.vector_norm(vectors[index]) > math.pi:
                vectors[index] = super().draw(inputs, [generator])[0]
        return vectors

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The rotations that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        return {
            **super().guarantee(tau),
            'derivation': (
                "mmcert's own, in the docstring of Rotation3D, with numeric checks; not from a "
                'paper'
            ),
        }

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {'type': 'Rotation3D', 'sigma': self.scales[0], 'normals': self.normals}

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        # Rodrigues' formula without a division by the angle, which may be 0.
        angle = torch.linalg.vector_norm(parameter)
        axis = parameter.expand_as(points)
        once = torch.linalg.cross(axis, points)
        twice = torch.linalg.cross(axis, once)
        return (
            points
            + torch.sinc(angle / math.pi) * once
            + 0.5 * torch.sinc(angle / (2 * math.pi)).square() * twice
        )

    def _attack_set(self) -> str:
        return '{rotation about any axis through the origin : its angle <= radius}'

    def _attack_words(self, tau: float) -> str:
        return f'rotation about any axis through the origin {_angle_words(self.radius(tau))}'


class Translation(PointTransformation):
    """Translation of all points by the same Gaussian vector, T_a(T_b x) = T_{a+b} x.

    Args:
        sigma (float): Standard deviation of each entry, in the unit of the coordinates.

    Raises:
        ValueError: If sigma is not positive and finite.
    """

    law = 'N(0, sigma^2 I_3)'
    norm = 'l2'

    def __init__(self, sigma: float) -> None:
        super().__init__(*[validate_positive(sigma)] * 3)

    def spec(self) -> dict[str, Any]:
        """Class name and sigma."""
        return {'type': 'Translation', 'sigma': self.scales[0]}

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return points + parameter

    def _attack_set(self) -> str:
        return '{translation of all points by xi : ||xi||_2 <= radius}'

    def _attack_words(self, tau: float) -> str:
        return f'translation of the whole cloud by up to {self.radius(tau):.4g} (in {UNIT})'


class LogScale(PointTransformation):
    """Scaling of all coordinates about the origin by e^s with Gaussian s, T_a(T_b x) = T_{a+b} x.

    Unit normals are the same before and after.

    Args:
        sigma (float): Standard deviation of s, the natural logarithm of the factor.

    Raises:
        ValueError: If sigma is not positive and finite.
    """

    unit = 'natural logarithm of the factor'

    def __init__(self, sigma: float) -> None:
        super().__init__(validate_positive(sigma))

    def spec(self) -> dict[str, Any]:
        """Class name and sigma."""
        return {'type': 'LogScale', 'sigma': self.scales[0]}

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return points * parameter.exp()

    def _attack_set(self) -> str:
        return '{scaling about the origin by e^xi : |xi| <= radius}'

    def _attack_words(self, tau: float) -> str:
        radius = self.radius(tau)
        return (
            'scaling about the origin by a factor from '
            f'e^-{radius:.4g} = {math.exp(-radius):.4g} to its inverse'
        )


class Shear(PointTransformation):
    """Shear: coordinates grow in proportion to another one, as x += a z, y += b z.

    The coordinate on ``axis`` stays as it is, so T_a(T_b x) = T_{a+b} x.

    Args:
        sigma (float): Standard deviation of each coefficient, a number without unit.
        along (str): The coordinates that are displaced: 'xy', or one of them.
        axis (str): The coordinate that they are displaced in proportion to; not in ``along``.

    Raises:
        ValueError: If sigma is not positive and finite, or the coordinates are not as above.
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
        super().__init__(*[validate_positive(sigma)] * len(along))
        self.law = f'N(0, sigma^2 I_{len(along)})'
        self.along, self.axis = along, axis

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {
            'type': 'Shear',
            'sigma': self.scales[0],
            'along': self.along,
            'axis': self.axis,
        }

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        direction = sum(
            factor * _unit_vector(name, points)
            for factor, name in zip(parameter, self.along, strict=True)
        )
        return points + _along(points, _unit_vector(self.axis, points)) * direction

    def _formula(self) -> str:
        return ', '.join(
            f'{name} += {factor} {self.axis}'
            for name, factor in zip(self.along, 'ab', strict=False)
        )

    def _attack_set(self) -> str:
        return f'{{{self._formula()} : l2 norm of the coefficients <= radius}}'

    def _attack_words(self, tau: float) -> str:
        norm = '|a|' if len(self.along) == 1 else 'sqrt(a^2 + b^2)'
        return f'shear {self._formula()} with {norm} up to {self.radius(tau):.4g}'


class Twist(PointTransformation):
    """Rotation about an axis through the origin by an angle proportional to the height along it.

    The heights stay as they are, so T_a(T_b x) = T_{a+b} x.

    Args:
        sigma (float): Standard deviation of the rate, in radians per unit of the coordinates.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.

    Raises:
        ValueError: If sigma is not positive and finite, or the axis no unit vector.
    """

    unit = 'radians per unit of the coordinates as the pipeline delivers them'

    def __init__(self, sigma: float, axis: Axis = 'z') -> None:
        super().__init__(validate_positive(sigma))
        self.axis = _checked_axis(axis)

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {'type': 'Twist', 'sigma': self.scales[0], 'axis': self.axis}

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _turn(points, self.axis, parameter[0] * _heights(points, self.axis))

    def _attack_set(self) -> str:
        return '{rotation about the axis by xi * (height along it) : |xi| <= radius}'

    def _attack_words(self, tau: float) -> str:
        return f'twist about {_axis_words(self.axis)} by up to {self.radius(tau):.4g} {self.unit}'


class Taper(PointTransformation):
    """Scaling towards an axis through the origin by e^{t h}, with h the height along the axis.

    The heights stay as they are, so T_a(T_b x) = T_{a+b} x. (The taper by 1 + t h has no such law.)

    Args:
        sigma (float): Standard deviation of t, in 1 / unit of the coordinates.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.

    Raises:
        ValueError: If sigma is not positive and finite, or the axis no unit vector.
    """

    unit = '1 / unit of the coordinates as the pipeline delivers them'

    def __init__(self, sigma: float, axis: Axis = 'z') -> None:
        super().__init__(validate_positive(sigma))
        self.axis = _checked_axis(axis)

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {'type': 'Taper', 'sigma': self.scales[0], 'axis': self.axis}

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        heights = _heights(points, self.axis)
        kept = heights * _unit_vector(self.axis, points)
        return kept + (points - kept) * (parameter[0] * heights).exp()

    def _attack_set(self) -> str:
        return '{distances from the axis times e^(xi * height along it) : |xi| <= radius}'

    def _attack_words(self, tau: float) -> str:
        return (
            f'taper e^(t h) towards {_axis_words(self.axis)}, h being the height along it, with '
            f'|t| up to {self.radius(tau):.4g} {self.unit}'
        )


class _TwoParameters(PointTransformation):
    """Two commuting families: the attack set is an ellipse, ``radius`` that of its unit sphere."""

    law = 'independent N(0, sigma_k^2) of the two parameters'
    norm = 'l2 of the parameters, each divided by its sigma'
    unit = 'standard deviations of the parameters; semi_axes has the units of each'
    names: tuple[str, str]
    units: tuple[str, str]

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """Phi^{-1}(tau) - Phi^{-1}(floor): the l2 norm of parameters divided by their sigmas."""
        return _margin(tau, floor)

    def semi_axes(self, tau: float) -> dict[str, float]:
        """How far the attack may go in each parameter alone, by its name."""
        radius = self.radius(tau)
        return {name: scale * radius for name, scale in zip(self.names, self.scales, strict=True)}

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The ellipse that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        return {
            **super().guarantee(tau),
            'semi_axes': self.semi_axes(tau),
            'semi_axes_units': dict(zip(self.names, self.units, strict=True)),
        }

    def _ellipse_words(self, tau: float) -> str:
        return ' and '.join(
            f'{name} up to {size:.4g} ({unit})'
            for (name, size), unit in zip(self.semi_axes(tau).items(), self.units, strict=True)
        )


class TwistRotation(_TwoParameters):
    """Twist and rotation about the same axis: the angle a h + b at height h along it.

    The heights stay as they are and the angles add, so T_a(T_b x) = T_{a+b} x for the pairs.

    Args:
        sigma_twist (float): Standard deviation of a, in radians per unit of the coordinates.
        sigma_rotation (float): Standard deviation of b, in radians.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.

    Raises:
        ValueError: If a sigma is not positive and finite, or the axis no unit vector.
    """

    names = ('twist', 'rotation')
    units = (Twist.unit, 'radians')

    def __init__(self, sigma_twist: float, sigma_rotation: float, axis: Axis = 'z') -> None:
        super().__init__(
            validate_positive(sigma_twist, 'sigma_twist'),
            validate_positive(sigma_rotation, 'sigma_rotation'),
        )
        self.axis = _checked_axis(axis)

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {
            'type': 'TwistRotation',
            'sigma_twist': self.scales[0],
            'sigma_rotation': self.scales[1],
            'axis': self.axis,
        }

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        twist, angle = parameter
        return _turn(points, self.axis, twist * _heights(points, self.axis) + angle)

    def _attack_set(self) -> str:
        return (
            '{rotation about the axis by a * (height along it) + b : '
            '(a / sigma_twist)^2 + (b / sigma_rotation)^2 <= radius^2}'
        )

    def _attack_words(self, tau: float) -> str:
        return (
            f'twist with a rotation about {_axis_words(self.axis)}, within the ellipse of '
            f'{self._ellipse_words(tau)},'
        )


class RotationScale(_TwoParameters):
    """Rotation about a fixed axis and scaling about the origin by e^s.

    The two commute, so T_a(T_b x) = T_{a+b} x for the pairs (angle, s).

    Args:
        sigma_rotation (float): Standard deviation of the angle, in radians.
        sigma_scale (float): Standard deviation of s, the natural logarithm of the factor.
        axis (str | Sequence[float]): 'x', 'y', 'z' or a unit vector.
        normals (bool): Whether the normals rotate as well.

    Raises:
        ValueError: If a sigma is not positive and finite, or the axis no unit vector.
    """

    names = ('rotation', 'scale')
    units = ('radians', LogScale.unit)

    def __init__(
        self, sigma_rotation: float, sigma_scale: float, axis: Axis = 'z', normals: bool = False
    ) -> None:
        super().__init__(
            validate_positive(sigma_rotation, 'sigma_rotation'),
            validate_positive(sigma_scale, 'sigma_scale'),
        )
        self.axis, self.normals = _checked_axis(axis), _flag(normals, 'normals')

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {
            'type': 'RotationScale',
            'sigma_rotation': self.scales[0],
            'sigma_scale': self.scales[1],
            'axis': self.axis,
            'normals': self.normals,
        }

    def _transform(self, points: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        angle, log_factor = parameter
        return _turn(points, self.axis, angle) * log_factor.exp()

    def _rotate_normals(self, normals: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _turn(normals, self.axis, parameter[0])

    def _attack_set(self) -> str:
        return (
            '{rotation by a about the axis and scaling by e^s about the origin : '
            '(a / sigma_rotation)^2 + (s / sigma_scale)^2 <= radius^2}'
        )

    def _attack_words(self, tau: float) -> str:
        return (
            f'rotation about {_axis_words(self.axis)} with a scaling about the origin, within the '
            f'ellipse of {self._ellipse_words(tau)},'
        )


def _margin(tau: float, floor: float) -> float:
    """Phi^{-1}(tau) - Phi^{-1}(floor), at least 0."""
    return max(float(ndtri(check_tau(tau)) - ndtri(check_tau(floor))), 0.0)


def _words(attack: str, kept: str) -> str:
    return (
        f'{attack} changes the class that the smoothed model gives a certified point; {kept}; '
        f'{STAGE}'
    )


def _angle_words(radius: float) -> str:
    if radius >= math.pi:
        return 'by any angle'
    return f'by an angle up to {radius:.4g} rad ({math.degrees(radius):.4g} degrees)'


def _axis_words(axis: str | list[float]) -> str:
    if isinstance(axis, str):
        return f'the {axis} axis through the origin'
    return f'the axis ({", ".join(f"{value:.4g}" for value in axis)}) through the origin'


def _repr(spec: dict[str, Any]) -> str:
    arguments = ', '.join(f'{name}={value!r}' for name, value in spec.items() if name != 'type')
    return f'{spec["type"]}({arguments})'


def _flag(value: bool, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {value!r}')
    return value


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


def _check_cloud(inputs: torch.Tensor, columns: int) -> None:
    if inputs.ndim != 2 or inputs.shape[1] != columns:
        what = 'coordinates and normals' if columns == 6 else 'coordinates alone'
        raise ValueError(f'expected {what}, shape (N, {columns}), got {tuple(inputs.shape)}')
    if not inputs.is_floating_point():
        raise ValueError(f'coordinates must be floating point, got {inputs.dtype}')


def _unit_vector(axis: str | list[float], points: torch.Tensor) -> torch.Tensor:
    """The axis as a tensor like the points, shape (3,), of norm 1 up to rounding."""
    entries = AXES[axis] if isinstance(axis, str) else axis
    norm = math.hypot(*entries)
    return points.new_tensor([value / norm for value in entries])


def _along(points: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    return (points * axis).sum(dim=1, keepdim=True)


def _heights(points: torch.Tensor, axis: str | list[float]) -> torch.Tensor:
    """Height of each point along the axis, shape (N, 1)."""
    return _along(points, _unit_vector(axis, points))


def _turn(points: torch.Tensor, axis: str | list[float], angle: torch.Tensor) -> torch.Tensor:
    """Rotates points, shape (N, 3), about an axis by one angle, or by one for each, (N, 1)."""
    direction = _unit_vector(axis, points)
    kept = _along(points, direction) * direction
    turned = torch.linalg.cross(direction.expand_as(points), points)
    return kept + angle.cos() * (points - kept) + angle.sin() * turned
