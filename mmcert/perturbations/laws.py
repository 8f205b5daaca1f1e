"""Laws of a transformation's parameter, each with its exact radius.

Setting: the parameter theta has the law P_0, an attack xi shifts it, and theta + xi has the law
P_xi. A class whose probability is above tau is given on a set A of parameters with P_0(A) > tau.
After the attack its probability is P_xi(A), which by Neyman and Pearson is least where A takes
the parameters in the order of their likelihood ratio dP_xi / dP_0, smallest first. ``radius`` is
the largest size of xi at which this least value is still above ``floor``, and it is so at all
smaller attacks too. The docstring of each law derives it. With a base model that is itself random,
A becomes a function with values in [0, 1], and nothing else changes. Arithmetic is taken as exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.special import ndtri

from mmcert.certify.checks import check_tau
from mmcert.perturbations.noise_level import validate_positive
from mmcert.perturbations.standard import fill_normal


class Law(ABC):
    """A law of independent, identically distributed parameters.

    Attributes:
        one_sided (bool): Whether neither the parameter nor the attack is ever negative.
    """

    one_sided: bool = False

    @property
    @abstractmethod
    def words(self) -> str:
        """The law as a formula with its numbers."""

    def draw(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float64,
    ) -> torch.Tensor:
        """Draws independent values.

        Args:
            shape (Sequence[int]): Shape of the result.
            generator (torch.Generator): The only source of randomness.
            dtype (torch.dtype): A floating point type.

        Returns:
            torch.Tensor: On the generator's device.
        """
        values = torch.empty(tuple(shape), dtype=dtype, device=generator.device)
        return self.fill(values, generator)

    @abstractmethod
    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values into a tensor.

        Args:
            values (torch.Tensor): Floating point; changed in place.
            generator (torch.Generator): The only source of randomness, on the tensor's device.

        Returns:
            torch.Tensor: ``values``.
        """

    def fill_batch(
        self,
        values: torch.Tensor,
        generators: Sequence[torch.Generator],
        factor: float = 1.0,
        offset: float = 0.0,
    ) -> torch.Tensor:
        """Draws independent values into a batch, row j by generator j, in another unit.

        Args:
            values (torch.Tensor): Shape (B, ...), floating point, each row contiguous; changed in
                place.
            generators (Sequence[torch.Generator]): B of them, on the tensor's device.
            factor (float): What the drawn values are multiplied by.
            offset (float): What is then added.

        Returns:
            torch.Tensor: ``values``.
        """
        for item, generator in zip(values, generators, strict=True):
            self.fill(item, generator).mul_(factor).add_(offset)
        return values

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """Largest attack under which every probability above ``tau`` stays above ``floor``.

        Args:
            tau (float): Probability threshold in [0.5, 1).
            floor (float): What is to remain, in [0.5, 1).

        Returns:
            float: The radius, in the parameter's unit; 0 if ``floor`` is not below ``tau``.

        Raises:
            ValueError: If one of them is out of range.
        """
        tau, floor = check_tau(tau), check_tau(floor)
        return max(self._reach(tau, floor), 0.0) if floor < tau else 0.0

    @abstractmethod
    def _reach(self, tau: float, floor: float) -> float:
        """The radius where floor < tau."""

    def spec(self) -> dict[str, Any]:
        """Class name and arguments, as JSON values."""
        return {'type': type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Gaussian(Law):
    """N(0, sigma^2) for each entry; any number of entries, attacks of bounded l2 norm.

    The logarithm of the likelihood ratio is <theta, xi> / sigma^2 up to a constant, so the worst
    set is a half-space. Its probability falls from tau to Phi(Phi^{-1}(tau) - ||xi||_2 / sigma),
    which meets the floor at ||xi||_2 = sigma * (Phi^{-1}(tau) - Phi^{-1}(floor)) (Cohen, Rosenfeld,
    Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019).

    Args:
        sigma (float): Standard deviation.

    Raises:
        ValueError: If it is not positive and finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        _check(self, 'sigma')

    @property
    def words(self) -> str:
        """As a formula."""
        return f'N(0, {self.sigma:g}^2)'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values; see ``Law``."""
        return values.normal_(generator=generator).mul_(self.sigma)

    def fill_batch(
        self,
        values: torch.Tensor,
        generators: Sequence[torch.Generator],
        factor: float = 1.0,
        offset: float = 0.0,
    ) -> torch.Tensor:
        """Draws independent values into a batch, side by side; see ``Law``."""
        return fill_normal(values, generators, self.sigma * factor, offset)

    def _reach(self, tau: float, floor: float) -> float:
        return self.sigma * float(ndtri(tau) - ndtri(floor))


@dataclass(frozen=True)
class Laplace(Law):
    """Density exp(-|t| / b) / (2 b) for each entry; any number, attacks of bounded l1 norm.

    By the triangle inequality the likelihood ratio is at most exp(||xi||_1 / b). Applied to the
    complement of A, P_xi(A) > 1 - (1 - tau) exp(||xi||_1 / b), which is the floor at ||xi||_1 =
    b * ln((1 - floor) / (1 - tau)). No radius is larger: for an attack r on one entry alone the
    ratio grows with that entry, so the worst set is {theta_1 <= t} with t = -b ln(2 - 2 tau) >= 0,
    and its probability is 1 - (1 - tau) exp(r / b) as long as r <= t, that is, down to 1/2.
    (Radius for floor 1/2: Teng, Lee, Yuan, "l1 Adversarial Robustness Certificates: a Randomized
    Smoothing Approach", 2020.)

    Args:
        b (float): Scale; the standard deviation is sqrt(2) b.

    Raises:
        ValueError: If it is not positive and finite.
    """

    b: float

    def __post_init__(self) -> None:
        _check(self, 'b')

    @property
    def words(self) -> str:
        """As a formula."""
        return f'Laplace(0, {self.b:g})'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values, differences of two exponential ones; see ``Law``."""
        values.exponential_(generator=generator)
        other = torch.empty_like(values).exponential_(generator=generator)
        return values.sub_(other).mul_(self.b)

    def _reach(self, tau: float, floor: float) -> float:
        return self.b * math.log((1 - floor) / (1 - tau))


@dataclass(frozen=True)
class Exponential(Law):
    """Density exp(-t / mean) / mean on t >= 0; attacks xi >= 0, bounded in their sum.

    The likelihood ratio is 0 where theta < xi and exp(xi / mean) elsewhere. The worst set takes the
    first region, of probability 1 - exp(-xi / mean), and what it still lacks from the second:
    P_xi(A) = 1 - (1 - tau) exp(xi / mean), which is the floor at xi = mean * ln((1 - floor) /
    (1 - tau)). With several entries and xi_k >= 0, the same holds with the sum of xi_k.

    Args:
        mean (float): Mean of the parameter.

    Raises:
        ValueError: If it is not positive and finite.
    """

    mean: float
    one_sided = True

    def __post_init__(self) -> None:
        _check(self, 'mean')

    @property
    def words(self) -> str:
        """As a formula."""
        return f'Exponential(mean {self.mean:g})'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values; see ``Law``."""
        return values.exponential_(generator=generator).mul_(self.mean)

    def _reach(self, tau: float, floor: float) -> float:
        return self.mean * math.log((1 - floor) / (1 - tau))


@dataclass(frozen=True)
class Uniform(Law):
    """Uniform on an interval of the given width, for one parameter.

    The likelihood ratio is 0 on the part of the interval that the shifted one does not cover, a
    share |xi| / width, and 1 on what they share. The worst set takes the first part first: P_xi(A)
    = tau - |xi| / width, which is the floor at |xi| = width * (tau - floor).

    Args:
        width (float): Length of the interval.
        one_sided (bool): Whether the interval is [0, width], for attacks xi >= 0, and not [-width /
            2, width / 2], for attacks of either sign.

    Raises:
        ValueError: If the width is not positive and finite, or one_sided no truth value.
    """

    width: float
    one_sided: bool = False

    def __post_init__(self) -> None:
        _check(self, 'width')
        if not isinstance(self.one_sided, bool):
            raise ValueError(f'one_sided must be True or False, got {self.one_sided!r}')

    @property
    def words(self) -> str:
        """As a formula."""
        low = 0.0 if self.one_sided else -self.width / 2
        return f'Uniform[{low:g}, {low + self.width:g}]'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values; see ``Law``."""
        values.uniform_(generator=generator)
        return values.sub_(0.0 if self.one_sided else 0.5).mul_(self.width)

    def _reach(self, tau: float, floor: float) -> float:
        return self.width * (tau - floor)


@dataclass(frozen=True)
class FoldedNormal(Law):
    """The absolute value of N(0, sigma^2), for one parameter and attacks xi >= 0.

    The likelihood ratio is 0 where theta < xi and exp((2 theta xi - xi^2) / (2 sigma^2)) elsewhere:
    it grows with theta. The worst set is [0, t) with 2 Phi(t / sigma) - 1 = tau, and P_xi(A) =
    2 Phi((t - xi) / sigma) - 1 is the floor at
    xi = sigma * (Phi^{-1}((1 + tau) / 2) - Phi^{-1}((1 + floor) / 2)).

    Args:
        sigma (float): Standard deviation before folding.

    Raises:
        ValueError: If it is not positive and finite.
    """

    sigma: float
    one_sided = True

    def __post_init__(self) -> None:
        _check(self, 'sigma')

    @property
    def words(self) -> str:
        """As a formula."""
        return f'|N(0, {self.sigma:g}^2)|'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values; see ``Law``."""
        return values.normal_(generator=generator).abs_().mul_(self.sigma)

    def _reach(self, tau: float, floor: float) -> float:
        return self.sigma * float(ndtri((1 + tau) / 2) - ndtri((1 + floor) / 2))


LAWS: dict[str, type[Law]] = {
    law.__name__: law for law in (Gaussian, Laplace, Exponential, Uniform, FoldedNormal)
}
"""All laws by name: what the configs of perturbations may speak of."""


def build_law(law: Law | Mapping[str, Any]) -> Law:
    """Turns a law or its config into a law.

    Args:
        law (Law | Mapping): A law, or ``type``, its name, and its arguments, as from ``spec``.

    Returns:
        Law: The law.

    Raises:
        ValueError: If it is neither; the message names the known laws.
    """
    if isinstance(law, Law):
        return law
    if not isinstance(law, Mapping):
        raise ValueError(
            f"a law is needed, for example dict(type='Exponential', mean=4.0): {law!r}"
        )
    arguments = dict(law)
    name = arguments.pop('type', None)
    if name not in LAWS:
        raise ValueError(f'unknown law {name!r}; known: {", ".join(sorted(LAWS))}')
    try:
        return LAWS[name](**arguments)
    except TypeError as error:
        raise ValueError(f'{name}: {error}') from None


def _check(law: Law, name: str) -> None:
    """Makes one parameter of a law a positive float."""
    object.__setattr__(law, name, validate_positive(getattr(law, name), name))
