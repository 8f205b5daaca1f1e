"""Transformations of images that compose exactly, and so are certified directly.

The values are never clipped between attack and smoothing: clipping does not compose.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from scipy.special import ndtri

from mmcert.certify.checks import check_tau
from mmcert.certify.rounding import AtLeast, AtMost
from mmcert.perturbations.base import LARGEST_TAU, register
from mmcert.perturbations.distributions import Distribution, build_distribution
from mmcert.perturbations.lattice import FINE
from mmcert.perturbations.noise import IMAGE_STAGE, IMAGE_UNIT, NOT_CLIPPED, check_range
from mmcert.perturbations.noise_level import validate_positive, validate_sigma
from mmcert.perturbations.parametric import ParametricTransformation
from mmcert.perturbations.worst_sets import largest_offset, largest_offset_between
from mmcert.transformations.cosine import blurred, dct

OVERSHOOT = 0.5
"""How far beyond [0, 1] the values of an image may lie before it is taken for one of another unit,
where the attack does not take them farther: blurred images overshoot a little."""


class ImageTransformation(ParametricTransformation):
    """A transformation of an image (C, H, W), rounded to 1/1024 of a level of an 8-bit image.

    ``padding`` says what stands for the pixels outside the image.
    """

    stage = IMAGE_STAGE
    rounding = (
        'the smoothed function first rounds the transformed image to 1/1024 of a level of an 8-bit '
        'image'
    )
    points_per_unit = FINE
    padding: str = 'none needed'

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        check_image(inputs)

    def check_shape(self, inputs: torch.Tensor) -> None:
        """Refuses what is no image (C, H, W)."""
        check_image(inputs, math.inf)

    def _extra(self, tau: float) -> dict[str, Any]:
        return {'padding': self.padding, 'clipping': NOT_CLIPPED}


@register
class GaussianBlur(ImageTransformation):
    """Gaussian blur by a random kernel variance a >= 0, in pixels^2.

    T_a multiplies the coefficient of the image's cosine transform (DCT-II) at the frequency w, in
    radians per pixel, by exp(-a |w|^2 / 2). That is the convolution of the image, continued by
    mirroring at its border, with the kernel whose frequency response is exactly Gaussian on
    [-pi, pi]; its variance is exactly a. From a = 2 on it differs from the sampled Gaussian kernel
    by less than 1e-4 in every frequency; below, it is a smooth interpolation towards the identity,
    with small negative values. Multipliers multiply, so T_a(T_b x) = T_{a+b} x, which no truncated
    kernel satisfies. The smoothed model at T_xi x averages over the distribution of a shifted by
    xi, and the radius is that of the distribution.

    Args:
        law (Distribution | Mapping): Distribution of a, never negative: ``Exponential``, one-sided
            ``Uniform`` or ``FoldedNormal``, or a config such as dict(type='Exponential', mean=4.0).

    Raises:
        ValueError: If the distribution is not one of these.
    """

    unit = 'variance of the kernel, pixels^2 of the image as it reaches the smoothed model'
    norm = 'absolute value'
    padding = 'mirrored at the border, border pixels doubled (DCT-II)'
    formula = '{Gaussian blur of kernel variance xi : 0 <= xi <= radius}'

    def __init__(self, law: Distribution | Mapping[str, Any]) -> None:
        self.law = build_distribution(law)
        if not self.law.one_sided:
            raise ValueError(
                f'the variance of a blur is never negative, so its law must be Exponential, '
                f'Uniform with one_sided=True, or FoldedNormal, got {self.law.describe()}'
            )
        self.scales, self.distribution = (1.0,), self.law.describe()

    def checked(self, parameter: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """A variance of at least 0; see the base class."""
        parameter = super().checked(parameter, inputs)
        if (parameter < 0).any():
            raise ValueError(f'the variance of a blur is never negative, got {parameter.item()}')
        return parameter

    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return blurred(dct(inputs), parameter)

    def _transform_each(
        self, inputs: torch.Tensor, parameters: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        coefficients = dct(inputs)  # The draws share them.
        return (blurred(coefficients, variance) for variance in parameters)

    def _attack(self, tau: float) -> str:
        radius = AtMost(self.radius(tau))
        deviation = AtMost(math.sqrt(radius))
        return (
            f'Gaussian blur of kernel variance up to {radius:.4g} pixels^2 (standard deviation up '
            f'to {deviation:.4g} pixels; exact kernel, mirrored border)'
        )


@register
class BrightnessContrast(ImageTransformation):
    r"""Brightness and contrast, x -> e^k (x + b), by independent Gaussian k and b.

    k ~ N(0, sigma_k^2) and b ~ N(0, sigma_b^2). T_{k',b'}(T_{k,b} x) = T_{k+k', b + e^{-k} b'} x:
    after the attack (k, b) the parameter has mean (k, b) and the scales sigma_k and e^{-k} sigma_b.
    So the least probability that a class of probability above tau keeps is that of the worst set of
    Neyman and Pearson between two normal laws of the plane. It is an integral over one variable,
    which is computed by a trapezoidal rule whose error is proven to be below 1e-9, and subtracted.

    - It falls with |b|, so that ``allowed_brightness`` is the largest |b| at one contrast.
    - Without brightness it falls with |k|, so that the ends of a range of contrasts are its worst.
    - With brightness it need not fall with |k|. From |b| <= (2 sigma_b / sigma_k)
      sqrt(k (e^{2k} - 1)) on it does. Below, the range is covered by cells: what is kept in the
      middle of a cell, lowered by what a further contrast of half a cell can take, is above the
      target. ``radius`` is the smaller bound of the two ends less 0.1 % of it, proven so for all
      contrasts between.

    The attack set is that box: contrast factors e^k in ``contrast_range``, together with any b up
    to ``radius(tau)``. Where tau is too small for the range, the radius is 0 and the guarantee says
    that nothing but the image itself is certified.

    Args:
        sigma_k (float): Standard deviation of k, the natural logarithm of the contrast factor.
        sigma_b (float): Standard deviation of b, in [0, 1] image units; b is added before the
            contrast.
        contrast_range (tuple[float, float]): The attack's contrast factors (low, high), low <= 1 <=
            high; (1, 1) for brightness alone.

    Raises:
        ValueError: If a scale is not positive, sigma_b evidently in 0-255 units, or the range none.
    """

    distribution = 'independent N(0, sigma_k^2) of k and N(0, sigma_b^2) of b'
    norm = 'absolute value of b, at any contrast in contrast_range'
    unit = IMAGE_UNIT

    def __init__(
        self, sigma_k: float, sigma_b: float, contrast_range: Sequence[float] = (1.0, 1.0)
    ) -> None:
        self.sigma_k = validate_positive(sigma_k, 'sigma_k')
        self.sigma_b = validate_sigma(sigma_b, 'sigma_b')
        self.contrast_range = _contrast_range(contrast_range)
        self.scales = (self.sigma_k, self.sigma_b)
        low, high = self.contrast_range
        self.attack_text = (
            'brightness offset up to {radius:.4g} (in {unit}) followed by a contrast factor '
            f'from {AtLeast(low):.4g} to {AtMost(high):.4g}'
        )

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        brightest = self.contrast_range[1] * (1 + self.sigma_b * float(ndtri(LARGEST_TAU)))
        check_image(inputs, max(OVERSHOOT, brightest - 1))

    def allowed_brightness(self, tau: float, k: float, target: float = 0.5) -> float | None:
        """Largest |b| of an attack e^k (x + b) that keeps a probability above ``target``.

        Never above the exact one, and within 0.03 % of it for sigma_k up to 1. Both probabilities
        lie in [0.5, 1).

        Returns:
            float | None: The bound, in [0, 1] image units; None if not even b = 0 is certified at
            this contrast.
        """
        tau, target = check_tau(tau), check_tau(target)
        offset = largest_offset(tau, float(k), self.sigma_k, target)
        return None if offset is None else self.sigma_b * offset

    def covers(self, tau: float, target: float = 0.5) -> bool:
        """Whether ``tau`` suffices for all of ``contrast_range``, at least with b = 0."""
        return self._offset(tau, target) is not None

    def radius(self, tau: float, target: float = 0.5) -> float:
        """Largest |b| at every contrast in ``contrast_range``, in [0, 1] image units.

        It is 0 if ``target`` is not below ``tau``, or if tau is too small for the range: see
        ``covers``.
        """
        return self.sigma_b * (self._offset(tau, target) or 0.0)

    def _offset(self, tau: float, target: float) -> float | None:
        """The radius in units of sigma_b, or None where the range is not covered."""
        low, high = (math.log(end) for end in self.contrast_range)
        return largest_offset_between(check_tau(tau), low, high, self.sigma_k, check_tau(target))

    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        log_factor, offset = parameter
        return (inputs + offset) * log_factor.exp()

    def _attack_set(self, tau: float) -> str:
        if self.covers(tau):
            return '{x -> e^k (x + b) : e^k in contrast_range, |b| <= radius}'
        return '{the image itself}: tau is too small for contrast_range'

    def _claim(self, tau: float) -> str:
        if self.covers(tau):
            return super()._claim(tau)
        low, high = self.contrast_range
        return (
            f'tau={tau:g} is too small for contrast factors from {low:.4g} to {high:.4g}: nothing '
            'but the image itself is certified'
        )

    def _extra(self, tau: float) -> dict[str, Any]:
        covered, (low, high) = self.covers(tau), self.contrast_range
        return {
            **super()._extra(tau),
            'covers_contrast_range': covered,
            'certified_contrast': [low, high] if covered else [1.0, 1.0],
            'brightness_at_contrast': [
                {'contrast': factor, 'largest_b': self.allowed_brightness(tau, math.log(factor))}
                for factor in (low, 1.0, high)
            ],
        }


@register
class CyclicTranslation(ImageTransformation):
    r"""Cyclic translation by whole pixels; what leaves the image comes in at the other side.

    The shift is (dy, dx) = round(t) with t ~ N(0, sigma^2 I_2). For a shift xi by whole pixels
    round(t + xi) = round(t) + xi, so T_round(t)(T_xi x) = T_round(t + xi) x: the probability of a
    class after the attack is that of one and the same function of t under N(xi, sigma^2 I_2) in
    place of N(0, sigma^2 I_2). It stays above Phi(Phi^{-1}(tau) - ||xi||_2 / sigma), as for
    Gaussian noise, whatever the function, and also modulo the size of the image. Translations by
    parts of a pixel, or with another border, are not of this family, and nothing is said of them.

    Labels move with the content (``moves_labels``): a component is a position v of the clean image,
    and the base model's class there under the shift theta is what it predicts at v + theta.
    ``map_labels`` turns the label map of a shifted image into that frame, and the sampler counts no
    other. A certificate says: after the attack xi, the class of the content at v is at v + xi.

    Args:
        sigma (float): Standard deviation of each entry of t, in pixels: positive and finite.
    """

    moves_labels = True
    norm = 'l2 of (dy, dx), whole pixels'
    unit = 'pixels of the image as it reaches the smoothed model'
    padding = 'cyclic'
    rounding = 'none: a shift changes no value'
    distribution = 'N(0, sigma^2 I_2) of (dy, dx), rounded to whole pixels'
    formula = '{cyclic translation by whole (dy, dx) : dy^2 + dx^2 <= radius^2}'
    attack_text = 'cyclic translation by whole pixels, up to {radius:.4g} of them in l2 norm'

    def __init__(self, sigma: float) -> None:
        self.sigma = validate_positive(sigma)
        self.scales = (self.sigma, self.sigma)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws shifts (dy, dx) of whole pixels, shape (B, 2), float64."""
        # Rounding halves up commutes with whole shifts; torch.round rounds halves to even.
        return (super().draw(inputs, generators) + 0.5).floor()

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Shifts the image, shape (C, H, W): no value changes, so nothing is rounded."""
        self.check_shape(inputs)
        return [_rolled(inputs, row) for row in parameters]

    def map_labels(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """At v, the label found at v + shift; see ``Perturbation``."""
        pairs = zip(labels, parameters, strict=True)
        return torch.stack([_rolled(found, -self.checked(row, found)) for found, row in pairs])

    def checked(self, parameter: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """A shift by whole pixels; see the base class."""
        parameter = super().checked(parameter, inputs)
        if (parameter != parameter.round()).any():
            raise ValueError(f'a shift is one of whole pixels, got {parameter.tolist()}')
        return parameter

    def covered_shifts(self, tau: float) -> int:
        """Number of shifts by whole pixels within ``radius(tau)``, the zero shift included."""
        square = self.radius(tau) ** 2
        top = math.floor(math.sqrt(square))
        steps = range(-top, top + 1)
        return sum(dy * dy + dx * dx <= square for dy in steps for dx in steps)

    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _rolled(inputs, parameter)

    def _extra(self, tau: float) -> dict[str, Any]:
        return {**super()._extra(tau), 'covered_shifts': self.covered_shifts(tau)}


def _rolled(maps: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    down, right = (int(step) for step in shift)
    return maps.roll((down, right), (-2, -1))


def _contrast_range(contrast_range: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = contrast_range
    except (TypeError, ValueError):
        message = f'contrast_range must be two factors (low, high), got {contrast_range!r}'
        raise ValueError(message) from None
    low, high = (validate_positive(end, 'contrast_range') for end in (low, high))
    if not low <= 1 <= high:
        raise ValueError(
            f'contrast_range must hold the factor 1, low <= 1 <= high, got ({low}, {high})'
        )
    return low, high


def check_image(inputs: torch.Tensor, overshoot: float = OVERSHOOT) -> None:
    """Refuses what is evidently no image (C, H, W) in [0, 1] units: see ``check_range``."""
    if inputs.ndim != 3:
        raise ValueError(f'expected an image, shape (C, H, W), got {tuple(inputs.shape)}')
    check_range(inputs, overshoot)
