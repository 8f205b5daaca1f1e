"""Transformations of a whole input by a random parameter, where the parameters compose."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch

from mmcert.perturbations.base import Perturbation
from mmcert.perturbations.distributions import STANDARD_NORMAL, Distribution
from mmcert.perturbations.lattice import rounded


class ParametricTransformation(Perturbation):
    """One transformation of the whole input by a random parameter of a family that composes.

    If T_theta(T_xi x) = T_{theta+xi} x and the entries of theta are independent Gaussian numbers,
    the smoothed model at T_xi x averages over theta + xi. So if a class has probability above tau
    under T_theta x, it keeps a probability above the target under T_theta(T_xi x) for every xi with
    sqrt(sum_k (xi_k / sigma_k)^2) <= Phi^{-1}(tau) - Phi^{-1}(target), by the argument for
    ``Gaussian`` in the space of the parameter. A family with another distribution or composition
    has its own argument.

    Transformed inputs are computed in double precision, which is taken as exact, and rounded to a
    grid before the model sees them: a certificate speaks of an attack that is computed as
    precisely, and not of a copy of it in single precision or, for images, in 8 bits.

    Attributes:
        law (Distribution): Of each of the P parameters, up to its factor in ``scales``.
        scales (tuple[float, ...]): These factors; the standard deviations of Gaussian parameters.
        points_per_unit (float): Of the grid.
    """

    law: Distribution = STANDARD_NORMAL
    scales: tuple[float, ...]
    points_per_unit: float

    @property
    def num_parameters(self) -> int:
        """Number of parameters, P."""
        return len(self.scales)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws parameters, shape (B, P), float64."""
        shape = (len(generators), self.num_parameters)
        values = torch.empty(shape, dtype=torch.float64, device=inputs.device)
        return self.law.fill_batch(values, generators) * values.new_tensor(self.scales)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Transforms the input by each of the parameters, and rounds to the grid."""
        self.check_shape(inputs)
        moved = self._transform_each(inputs.double(), parameters)
        return [rounded(values, self.points_per_unit).to(inputs.dtype) for values in moved]

    def transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """Transforms an input as an attacker may, without clipping or rounding to a grid.

        Args:
            inputs (torch.Tensor): Floating point, of any values: an attacked image may leave
                [0, 1].
            parameter (torch.Tensor): Shape (P,).

        Raises:
            ValueError: If a shape or type is wrong, or the parameter outside the family.
        """
        self.check_shape(inputs)
        return self._transform(inputs.double(), self.checked(parameter, inputs)).to(inputs.dtype)

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what ``check_shape`` does; see ``Perturbation``."""
        self.check_shape(inputs)

    @abstractmethod
    def check_shape(self, inputs: torch.Tensor) -> None:
        """Refuses an input of another shape or type, with a ValueError."""

    def checked(self, parameter: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """A parameter as float64 on the inputs' device; a ValueError if none of the family."""
        parameter = torch.as_tensor(parameter)
        if parameter.shape != (self.num_parameters,):
            raise ValueError(
                f'{type(self).__name__} takes a parameter of shape ({self.num_parameters},), got '
                f'{tuple(parameter.shape)}'
            )
        if not parameter.isfinite().all():
            raise ValueError(f'the parameter must be finite, got {parameter.tolist()}')
        return parameter.to(inputs.device, torch.float64)

    def _transform_each(
        self, inputs: torch.Tensor, parameters: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        return (self._transform(inputs, row) for row in parameters)

    @abstractmethod
    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The transformed input; both are float64."""

    def radius(self, tau: float, target: float = 0.5) -> float:
        """Sigma * (Phi^{-1}(tau) - Phi^{-1}(target)), with the smallest sigma of the parameters.

        For another ``law``, its radius takes the place of the difference.
        """
        return min(self.scales) * self.law.radius(tau, target)
