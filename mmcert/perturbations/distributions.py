"""Distributions of random parameters and of noise, each with its exact radius.

Setting: the parameter theta has the distribution P_0, an attack xi shifts it, and theta + xi has
the distribution P_xi. A class whose probability is above tau is given on a set A of parameters with
P_0(A) > tau. After the attack its probability is P_xi(A), which by Neyman and Pearson is least
where A takes the parameters in the order of their likelihood ratio dP_xi / dP_0, smallest first.
``radius`` is the largest size of xi at which this least value is still above ``target``, and it is
so at all smaller attacks too. The docstring of each distribution derives it. With a base model that
is itself random, A becomes a function with values in [0, 1], and nothing else changes. Arithmetic
is taken as exact.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from scipy.special import ndtri

from mmcert.certify.checks import check_tau
from mmcert.perturbations.base import check_flag
from mmcert.perturbations.noise_level import validate_positive


class Distribution(ABC):
    """A distribution of independent, identically distributed values.

    A subclass is a frozen dataclass whose first field is its scale: a positive number to which the
    values are proportional.

    Attributes:
        formula (str): The distribution, with its fields in braces.
        norm (str | None): Norm of the attack in which the radius holds for any number of entries,
            such as 'l2'; None if it holds for one entry alone.
        one_sided (bool): Whether neither the parameter nor the attack is ever negative.

    Raises:
        ValueError: If the scale is not positive and finite.
    """

    formula: str
    norm: str | None = None
    one_sided: bool = False

    def __post_init__(self) -> None:
        name = fields(self)[0].name  # type: ignore[arg-type]
        object.__setattr__(self, name, validate_positive(getattr(self, name), name))

    @property
    def scale(self) -> float:
        """The first field."""
        return getattr(self, fields(self)[0].name)  # type: ignore[arg-type]

    def describe(self) -> str:
        """The distribution as a formula with its numbers."""
        return self.formula.format(**asdict(self))  # type: ignore[call-overload]

    @abstractmethod
    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values into a floating point tensor, and returns it.

        The generator, on the tensor's device, is the only source of randomness.
        """

    def fill_batch(
        self,
        values: torch.Tensor,
        generators: Sequence[torch.Generator],
        factor: float = 1.0,
        offset: float = 0.0,
    ) -> torch.Tensor:
        """Draws independent values times ``factor`` plus ``offset`` into a batch, and returns it.

        Args:
            values (torch.Tensor): Shape (B, ...), floating point, each row contiguous; changed in
                place.
            generators (Sequence[torch.Generator]): B of them, on the tensor's device: generator j
                draws row j.
            factor (float): Factor of the drawn values.
            offset (float): What is added to them.
        """
        for row, generator in zip(values, generators, strict=True):
            if self.fill(row, generator) is not row:
                raise ValueError(
                    f'{type(self).__name__}.fill must draw into the tensor that it is given, in '
                    'place, and return this tensor'
                )
            row.mul_(factor).add_(offset)
        return values

    def radius(self, tau: float, target: float = 0.5) -> float:
        """Largest attack under which every probability above ``tau`` stays above ``target``.

        Both lie in [0.5, 1), or a ValueError is raised. The radius is in the parameter's unit, and
        0 if ``target`` is not below ``tau``.
        """
        tau, target = check_tau(tau), check_tau(target)
        return max(self._reach(tau, target), 0.0) if target < tau else 0.0

    @abstractmethod
    def _reach(self, tau: float, target: float) -> float:
        """The radius where target < tau."""

    def spec(self) -> dict[str, Any]:
        """Class name and arguments, as JSON values."""
        return {'type': type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Gaussian(Distribution):
    """N(0, sigma^2) for each entry; any number of entries, attacks of bounded l2 norm.

    The logarithm of the likelihood ratio is <theta, xi> / sigma^2 up to a constant, so the worst
    set is a half-space. Its probability falls from tau to Phi(Phi^{-1}(tau) - ||xi||_2 / sigma),
    which meets the target at ||xi||_2 = sigma * (Phi^{-1}(tau) - Phi^{-1}(target)) (Cohen,
    Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019).
    """

    sigma: float
    norm = 'l2'
    formula = 'N(0, {sigma:g}^2)'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See ``Distribution``."""
        return values.normal_(0.0, self.sigma, generator=generator)

    def fill_batch(
        self,
        values: torch.Tensor,
        generators: Sequence[torch.Generator],
        factor: float = 1.0,
        offset: float = 0.0,
    ) -> torch.Tensor:
        """Draws the rows side by side on a CPU, where torch fills a tensor in one thread."""
        if type(self).fill is not Gaussian.fill:
            return super().fill_batch(values, generators, factor, offset)
        sigma = self.sigma * factor
        rest = deque(zip(values, generators, strict=True))

        def fill() -> None:
            while True:
                try:
                    row, generator = rest.popleft()
                except IndexError:
                    return
                row.normal_(offset, sigma, generator=generator)

        threads = torch.get_num_threads() if values.device.type == 'cpu' else 1
        helpers = min(threads, len(rest)) - 1
        # This thread takes rows too. A core of a helper may still be busy with a thread of the
        # model's last operation, which waits for work for some milliseconds.
        started = [_workers(threads).submit(fill) for _ in range(helpers)]
        fill()
        for helper in started:
            helper.result()
        return values

    def _reach(self, tau: float, target: float) -> float:
        return self.sigma * float(ndtri(tau) - ndtri(target))


@dataclass(frozen=True)
class Laplace(Distribution):
    """Density exp(-|t| / b) / (2 b) for each entry; any number, attacks of bounded l1 norm.

    By the triangle inequality the likelihood ratio is at most exp(||xi||_1 / b). Applied to the
    complement of A, P_xi(A) > 1 - (1 - tau) exp(||xi||_1 / b), which is the target at ||xi||_1 =
    b * ln((1 - target) / (1 - tau)). No radius is larger: for an attack r on one entry alone the
    ratio grows with that entry, so the worst set is {theta_1 <= t} with t = -b ln(2 - 2 tau) >= 0,
    and its probability is 1 - (1 - tau) exp(r / b) as long as r <= t, that is, down to 1/2.
    (Radius for target 1/2: Teng, Lee, Yuan, "l1 Adversarial Robustness Certificates: a Randomized
    Smoothing Approach", 2020.)
    The standard deviation is sqrt(2) b.
    """

    b: float
    norm = 'l1'
    formula = 'Laplace(0, {b:g})'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws independent values, differences of two exponential ones; see ``Distribution``."""
        values.exponential_(generator=generator)
        other = torch.empty_like(values).exponential_(generator=generator)
        return values.sub_(other).mul_(self.b)

    def _reach(self, tau: float, target: float) -> float:
        return self.b * math.log((1 - target) / (1 - tau))


@dataclass(frozen=True)
class Exponential(Distribution):
    """Density exp(-t / mean) / mean on t >= 0; attacks xi >= 0, bounded in their sum.

    The likelihood ratio is 0 where theta < xi and exp(xi / mean) elsewhere. The worst set takes the
    first region, of probability 1 - exp(-xi / mean), and what it still lacks from the second:
    P_xi(A) = 1 - (1 - tau) exp(xi / mean), which is the target at xi = mean * ln((1 - target) /
    (1 - tau)). With several entries and xi_k >= 0, the same holds with the sum of xi_k.
    """

    mean: float
    one_sided = True
    formula = 'Exponential(mean {mean:g})'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See ``Distribution``."""
        return values.exponential_(generator=generator).mul_(self.mean)

    def _reach(self, tau: float, target: float) -> float:
        return self.mean * math.log((1 - target) / (1 - tau))


@dataclass(frozen=True)
class Uniform(Distribution):
    """Uniform on an interval of the given width, for one parameter.

    The likelihood ratio is 0 on the part of the interval that the shifted one does not cover, a
    share |xi| / width, and 1 on what they share. The worst set takes the first part first: P_xi(A)
    = tau - |xi| / width, which is the target at |xi| = width * (tau - target).

    Args:
        width (float): Length of the interval.
        one_sided (bool): Whether the interval is [0, width], for attacks xi >= 0, and not [-width /
            2, width / 2], for attacks of either sign.

    Raises:
        ValueError: If one_sided is no truth value.
    """

    width: float
    one_sided: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self.one_sided, 'one_sided')

    def describe(self) -> str:
        """As a formula."""
        low = 0.0 if self.one_sided else -self.width / 2
        return f'Uniform[{low:g}, {low + self.width:g}]'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See ``Distribution``."""
        values.uniform_(generator=generator)
        return values.sub_(0.0 if self.one_sided else 0.5).mul_(self.width)

    def _reach(self, tau: float, target: float) -> float:
        return self.width * (tau - target)


@dataclass(frozen=True)
class FoldedNormal(Distribution):
    """The absolute value of N(0, sigma^2), for one parameter and attacks xi >= 0.

    The likelihood ratio is 0 where theta < xi and exp((2 theta xi - xi^2) / (2 sigma^2)) elsewhere:
    it grows with theta. The worst set is [0, t) with 2 Phi(t / sigma) - 1 = tau, and P_xi(A) =
    2 Phi((t - xi) / sigma) - 1 is the target at
    xi = sigma * (Phi^{-1}((1 + tau) / 2) - Phi^{-1}((1 + target) / 2)).
    """

    sigma: float
    one_sided = True
    formula = '|N(0, {sigma:g}^2)|'

    def fill(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See ``Distribution``."""
        return values.normal_(generator=generator).abs_().mul_(self.sigma)

    def _reach(self, tau: float, target: float) -> float:
        return self.sigma * float(ndtri((1 + tau) / 2) - ndtri((1 + target) / 2))


STANDARD_NORMAL = Gaussian(1.0)

DISTRIBUTIONS: dict[str, type[Distribution]] = {
    cls.__name__: cls for cls in (Gaussian, Laplace, Exponential, Uniform, FoldedNormal)
}
"""All distributions by name, as in the ``law`` of a perturbation's config."""


def build_distribution(law: Distribution | Mapping[str, Any]) -> Distribution:
    """Builds a distribution from its config, ``type`` and arguments, as from ``spec``.

    Raises:
        ValueError: If it is neither a distribution nor such a config; the message names the known
            ones.
    """
    if isinstance(law, Distribution):
        return law
    if not isinstance(law, Mapping):
        raise ValueError(
            f"a law is needed, for example dict(type='Exponential', mean=4.0): {law!r}"
        )
    arguments = dict(law)
    name = arguments.pop('type', None)
    if name not in DISTRIBUTIONS:
        raise ValueError(f'unknown law {name!r}; known: {", ".join(sorted(DISTRIBUTIONS))}')
    try:
        return DISTRIBUTIONS[name](**arguments)
    except TypeError as error:
        raise ValueError(f'{name}: {error}') from None


@lru_cache(maxsize=1)
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, 'mmcert-noise')
