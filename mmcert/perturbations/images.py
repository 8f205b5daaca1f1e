"""Perturbations of images that are certified directly: noise, and families that compose.

Where T_theta(T_xi x) is again a member of the family, of a parameter whose law is known, smoothing
an attacked image only changes the law of the parameter, and the radius is that of the law. The
values are never clipped between attack and smoothing: clipping does not compose. Transformed images
are computed in double precision, which is taken as exact, and rounded to a grid before the model
sees them: a certificate speaks of an attack that is computed as precisely, and not of a copy of it
in single precision or in 8 bits.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.special import ndtr, ndtri

from mmcert.certify.checks import check_tau
from mmcert.perturbations.base import LARGEST_TAU, Perturbation
from mmcert.perturbations.gaussian import ROUNDING
from mmcert.perturbations.lattice import FINE, HALF, LEVELS, level_noise, on_levels, rounded
from mmcert.perturbations.laws import Gaussian, Laplace, Law, build_law
from mmcert.perturbations.noise_level import validate_positive, validate_sigma
from mmcert.transformations.cosine import blurred, dct

STAGE = (
    'attack and smoothing act at the same stage, on the image in [0, 1] units as the test pipeline '
    'delivers it, before input scaling, normalisation and padding'
)
NOT_CLIPPED = 'none, neither after the attack nor after the smoothing'
NO_PADDING = 'none needed'
READ_AT = 'read at the pixel nearest to where its content has moved'
"""Which class a certificate speaks of where the content moves."""

OVERSHOOT = 0.5
"""How far beyond [0, 1] the values of an image may lie before it is taken for one of another unit,
where the attack does not take them farther: blurred images overshoot a little."""


class LaplaceNoise(Perturbation):
    """I.i.d. Laplace noise on every value of the input: certificates against l1 perturbations.

    The radius is b * ln((1 - floor) / (1 - tau)), derived in ``Laplace``. The noise is not clipped,
    and the sum is rounded to whole levels of an 8-bit image, as in ``GaussianNoise``.

    Args:
        b (float): Scale, in [0, 1] image units; the standard deviation is sqrt(2) b.

    Raises:
        ValueError: If b is not positive, or evidently in 0-255 units.
    """

    def __init__(self, b: float) -> None:
        self.law = Laplace(validate_sigma(b, 'b'))

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        check_image(inputs, max(OVERSHOOT, self.radius(LARGEST_TAU)))

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws the noise plus 1/2, in levels of an 8-bit image, shape (B, *inputs.shape)."""
        noise = level_noise(inputs, len(generators), self.law.b * LEVELS)
        return self.law.fill_batch(noise, generators, LEVELS, HALF)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Adds noise to a floating point input, in the noise's memory; see ``Perturbation``."""
        return on_levels(inputs, parameters)

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """The l1 radius b * ln((1 - floor) / (1 - tau)), in the unit of b."""
        return self.law.radius(tau, floor)

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The l1 ball that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        radius = self.radius(tau)
        return {
            'perturbation': 'LaplaceNoise',
            'law': 'i.i.d. Laplace(0, b)',
            'parameters': {'b': self.law.b},
            'attack_set': '{delta : ||delta||_1 <= radius}, added to the input',
            'norm': 'l1',
            'radius': radius,
            'unit': '[0, 1] image units',
            'rounding': ROUNDING,
            'moves_labels': self.moves_labels,
            'stage': STAGE,
            'padding': NO_PADDING,
            'clipping': NOT_CLIPPED,
            'words': _words(
                f'no perturbation of l1 norm up to {radius:.4g} (in [0, 1] image units, summed '
                'over all values of the image)'
            ),
        }

    def spec(self) -> dict[str, Any]:
        """Class name and b."""
        return {'type': 'LaplaceNoise', 'b': self.law.b}

    def __repr__(self) -> str:
        """Class name and b."""
        return f'LaplaceNoise(b={self.law.b})'


class ImageTransformation(Perturbation):
    """One transformation of the whole image by a random parameter.

    Attributes:
        num_parameters (int): Their number P.
        law_words (str): Law of the parameter.
        norm (str): What ``radius`` bounds.
        unit (str): Unit of the radius.
        padding (str): What stands for the pixels outside the image.
        rounding (str): What the smoothed function begins with.
    """

    law: Any
    num_parameters: int = 1
    law_words: str
    norm: str = 'absolute value'
    unit: str
    padding: str = NO_PADDING
    rounding: str = (
        'the smoothed function first rounds the transformed image to 1/1024 of a level of an 8-bit '
        'image'
    )

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        check_image(inputs)

    def transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """Transforms an image: what an attacker may do.

        Args:
            inputs (torch.Tensor): Image, shape (C, H, W), floating point, of any values: an
                attacked image may leave [0, 1]. Unchanged by the call.
            parameter (torch.Tensor): Shape (P,).

        Returns:
            torch.Tensor: The transformed image, of the same shape and type, not clipped.

        Raises:
            ValueError: If a shape or type is wrong, or the parameter outside the family.
        """
        check_image(inputs, math.inf)
        return self._transform(inputs, self._checked(parameter, inputs))

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws parameters, shape (B, P), float64."""
        shape = (len(generators), self.num_parameters)
        values = torch.empty(shape, dtype=torch.float64, device=inputs.device)
        return self.law.fill_batch(values, generators)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Transforms the image, shape (C, H, W), by each of the parameters, shape (B, P).

        Computed in double precision and rounded to 1/1024 of a level of an 8-bit image, which is
        the first step of the function that is smoothed.
        """
        check_image(inputs, math.inf)
        image = inputs.double()
        transformed = (self._transform(image, self._checked(row, image)) for row in parameters)
        return [rounded(values, FINE).to(inputs.dtype) for values in transformed]

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The transformations that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        return {
            'perturbation': type(self).__name__,
            'law': self.law_words,
            'parameters': {name: value for name, value in self.spec().items() if name != 'type'},
            'attack_set': self._attack_set(tau),
            'norm': self.norm,
            'radius': self.radius(tau),
            'unit': self.unit,
            'rounding': self.rounding,
            'moves_labels': self.moves_labels,
            'stage': STAGE,
            'padding': self.padding,
            'clipping': NOT_CLIPPED,
            'words': _words(f'no {self._attack_words(tau)}'),
        }

    def __repr__(self) -> str:
        """Class name and arguments."""
        spec = self.spec()
        arguments = ', '.join(f'{name}={value!r}' for name, value in spec.items() if name != 'type')
        return f'{spec["type"]}({arguments})'

    def _checked(self, parameter: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """The parameter in double precision on the device of the inputs."""
        parameter = torch.as_tensor(parameter)
        if parameter.shape != (self.num_parameters,):
            raise ValueError(
                f'{type(self).__name__} takes a parameter of shape ({self.num_parameters},), got '
                f'{tuple(parameter.shape)}'
            )
        if not parameter.isfinite().all():
            raise ValueError(f'the parameter must be finite, got {parameter.tolist()}')
        return parameter.to(inputs.device, torch.float64)

    @abstractmethod
    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The transformed image; the parameter is float64."""

    @abstractmethod
    def _attack_set(self, tau: float) -> str:
        """The attack set as a formula."""

    @abstractmethod
    def _attack_words(self, tau: float) -> str:
        """The attack set at ``tau`` in words that follow a 'no'."""


class GaussianBlur(ImageTransformation):
    """Gaussian blur by a random kernel variance a >= 0, in pixels^2.

    T_a multiplies the coefficient of the image's cosine transform (DCT-II) at the frequency w, in
    radians per pixel, by exp(-a |w|^2 / 2). That is the convolution of the image, continued by
    mirroring at its border, with the kernel whose frequency response is exactly Gaussian on
    [-pi, pi]; its variance is exactly a. From a = 2 on it differs from the sampled Gaussian kernel
    by less than 1e-4 in every frequency; below, it is a smooth interpolation towards the identity,
    with small negative values. Multipliers multiply, so T_a(T_b x) = T_{a+b} x, which no truncated
    kernel satisfies. The smoothed model at T_xi x averages over the law of a shifted by xi, and the
    radius is that of the law.

    Args:
        law (Law | Mapping): Law of a, one that is never negative: ``Exponential``, one-sided
            ``Uniform`` or ``FoldedNormal``, or a config such as dict(type='Exponential', mean=4.0).

    Raises:
        ValueError: If the law is not one of these.
    """

    unit = 'variance of the kernel, pixels^2 of the image as the test pipeline delivers it'
    padding = 'mirrored at the border, border pixels doubled (DCT-II)'

    def __init__(self, law: Law | Mapping[str, Any]) -> None:
        self.law = build_law(law)
        if not self.law.one_sided:
            raise ValueError(
                f'the variance of a blur is never negative, so its law must be Exponential, '
                f'Uniform with one_sided=True, or FoldedNormal, got {self.law.words}'
            )
        self.law_words = self.law.words

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Blurs the image; what the draws share is computed once."""
        check_image(inputs, math.inf)
        coefficients = dct(inputs.double())
        variances = (self._checked(row, inputs) for row in parameters)
        return [rounded(blurred(coefficients, a), FINE).to(inputs.dtype) for a in variances]

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """Largest variance of an attacking blur: the radius of the law, in pixels^2."""
        return self.law.radius(tau, floor)

    def spec(self) -> dict[str, Any]:
        """Class name and law."""
        return {'type': 'GaussianBlur', 'law': self.law.spec()}

    def _checked(self, parameter: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        parameter = super()._checked(parameter, inputs)
        if (parameter < 0).any():
            raise ValueError(f'the variance of a blur is never negative, got {parameter.item()}')
        return parameter

    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return blurred(dct(inputs.double()), parameter).to(inputs.dtype)

    def _attack_set(self, tau: float) -> str:
        return '{Gaussian blur of kernel variance xi : 0 <= xi <= radius}'

    def _attack_words(self, tau: float) -> str:
        radius = self.radius(tau)
        return (
            f'Gaussian blur of kernel variance up to {radius:.4g} pixels^2 (standard deviation up '
            f'to {math.sqrt(radius):.4g} pixels; exact kernel, mirrored border)'
        )


class BrightnessContrast(ImageTransformation):
    r"""Brightness and contrast, x -> e^k (x + b), by independent Gaussian k and b.

    k ~ N(0, sigma_k^2) and b ~ N(0, sigma_b^2). T_{k',b'}(T_{k,b} x) = T_{k+k', b + e^{-k} b'} x:
    after the attack (k, b) the parameter has mean (k, b) and the scales sigma_k and e^{-k} sigma_b.
    For one attack and a class of probability above tau (Li et al., "TSS: Transformation-specific
    smoothing for robustness certification", CCS 2021):

    - *Change of scale.* From N(0, sigma_b^2) to N(0, e^{-2k} sigma_b^2) the likelihood ratio
      depends on |b| alone. For k > 0 it falls with |b|, so the worst set of probability tau is
      {|b| >= c}, and it keeps p = 2 - 2 Phi(e^k Phi^{-1}(1 - tau / 2)). For k < 0 it grows, the
      worst set is {|b| <= c}, and it keeps p = 2 Phi(e^k Phi^{-1}((1 + tau) / 2)) - 1.
    - *Shift* by (k, b) under the new scales: Phi(Phi^{-1}(p) - s) is left, with s^2 =
      (k / sigma_k)^2 + (b / (e^{-k} sigma_b))^2.

    So s <= Phi^{-1}(p) - Phi^{-1}(floor) suffices, which bounds |b|; for k < 0 the factor e^{-k} of
    the bound is replaced by 1. That makes the bound grow with k below 0 and fall above it:
    over a range of k it is least at an end of the range, and two numbers certify a whole box.

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

    law = Gaussian(1.0)
    num_parameters = 2
    law_words = 'independent N(0, sigma_k^2) of k and N(0, sigma_b^2) of b'
    norm = 'absolute value of b, at any contrast in contrast_range'
    unit = '[0, 1] image units'

    def __init__(
        self,
        sigma_k: float,
        sigma_b: float,
        contrast_range: Sequence[float] = (1.0, 1.0),
    ) -> None:
        self.sigma_k = validate_positive(sigma_k, 'sigma_k')
        self.sigma_b = validate_sigma(sigma_b, 'sigma_b')
        self.contrast_range = _contrast_range(contrast_range)

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        brightest = self.contrast_range[1] * (1 + self.sigma_b * float(ndtri(LARGEST_TAU)))
        check_image(inputs, max(OVERSHOOT, brightest - 1))

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws (k, b), shape (B, 2), float64."""
        standard = super().draw(inputs, generators)
        return standard * standard.new_tensor([self.sigma_k, self.sigma_b])

    def allowed_brightness(self, tau: float, k: float, floor: float = 0.5) -> float | None:
        """Largest |b| of an attack e^k (x + b) that keeps a probability above ``floor``.

        Args:
            tau (float): Probability threshold in [0.5, 1).
            k (float): Logarithm of the attack's contrast factor.
            floor (float): What is to remain, in [0.5, 1).

        Returns:
            float | None: The bound, in [0, 1] image units; None if not even b = 0 is certified at
            this contrast. It grows with k below 0 and falls above.
        """
        tau, floor = check_tau(tau), check_tau(floor)
        # How far the change of scale alone lowers tau.
        if k > 0:
            left = 2 * ndtr(math.exp(k) * ndtri(tau / 2))
        elif k < 0:
            left = 2 * ndtr(math.exp(k) * ndtri((1 + tau) / 2)) - 1
        else:
            left = tau
        reach, shift = (
            float(ndtri(left) - ndtri(floor)) if left > 0 else -math.inf,
            k / self.sigma_k,
        )
        if reach < abs(shift):
            return None
        return self.sigma_b * min(math.exp(-k), 1.0) * math.sqrt(reach**2 - shift**2)

    def covers(self, tau: float, floor: float = 0.5) -> bool:
        """Whether ``tau`` suffices for all of ``contrast_range``, at least with b = 0."""
        return all(bound is not None for bound in self._end_bounds(tau, floor))

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """Largest |b| at every contrast in ``contrast_range``.

        Args:
            tau (float): Probability threshold in [0.5, 1).
            floor (float): What is to remain, in [0.5, 1).

        Returns:
            float: The bound, in [0, 1] image units; 0 if ``floor`` is not below ``tau``, or if tau
            is too small for the range: see ``covers``.
        """
        return min(bound or 0.0 for bound in self._end_bounds(tau, floor))

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The box that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        low, high = self.contrast_range
        ends = self._end_bounds(tau, 0.5)
        return {
            **super().guarantee(tau),
            'words': self._box_words(tau),
            'covers_contrast_range': self.covers(tau),
            'certified_contrast': [low, high] if self.covers(tau) else [1.0, 1.0],
            'brightness_at_contrast': [
                {'contrast': contrast, 'largest_b': bound}
                for contrast, bound in zip(
                    (low, 1.0, high), (ends[0], self.allowed_brightness(tau, 0.0), ends[1]),
                    strict=True,
                )
            ],
        }  # fmt: skip

    def spec(self) -> dict[str, Any]:
        """Class name and arguments."""
        return {
            'type': 'BrightnessContrast',
            'sigma_k': self.sigma_k,
            'sigma_b': self.sigma_b,
            'contrast_range': list(self.contrast_range),
        }

    def _end_bounds(self, tau: float, floor: float) -> list[float | None]:
        return [self.allowed_brightness(tau, math.log(end), floor) for end in self.contrast_range]

    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        log_factor, offset = parameter
        return ((inputs.double() + offset) * log_factor.exp()).to(inputs.dtype)

    def _attack_set(self, tau: float) -> str:
        if not self.covers(tau):
            return '{the image itself}: tau is too small for contrast_range'
        return '{x -> e^k (x + b) : e^k in contrast_range, |b| <= radius}'

    def _box_words(self, tau: float) -> str:
        low, high = self.contrast_range
        if not self.covers(tau):
            return (
                f'tau={tau:g} is too small for contrast factors from {low:.4g} to {high:.4g}: '
                f'nothing but the image itself is certified; {STAGE}'
            )
        return _words(f'no {self._attack_words(tau)}')

    def _attack_words(self, tau: float) -> str:
        low, high = self.contrast_range
        return (
            f'brightness offset up to {self.radius(tau):.4g} (in [0, 1] image units) followed by a '
            f'contrast factor from {low:.4g} to {high:.4g}'
        )


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
    other. A certificate says: after the attack xi, the class of the content at v
    is found at v + xi.

    Args:
        sigma (float): Standard deviation of each entry of t, in pixels.

    Raises:
        ValueError: If sigma is not positive and finite.
    """

    moves_labels = True
    num_parameters = 2
    norm = 'l2 of (dy, dx), whole pixels'
    unit = 'pixels of the image as the test pipeline delivers it'
    padding = 'cyclic'
    rounding = 'none: a shift changes no value'
    law_words = 'N(0, sigma^2 I_2) of (dy, dx), rounded to whole pixels'

    def __init__(self, sigma: float) -> None:
        self.law = Gaussian(sigma)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws shifts (dy, dx) of whole pixels, shape (B, 2), float64."""
        # Rounding halves up commutes with whole shifts; torch.round rounds halves to even.
        return (super().draw(inputs, generators) + 0.5).floor()

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Shifts the image, shape (C, H, W): no value changes, so nothing is rounded."""
        return [self.transform(inputs, row) for row in parameters]

    def map_labels(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """At v, the label found at v + shift; see ``Perturbation``."""
        pairs = zip(labels, parameters, strict=True)
        return torch.stack([_rolled(found, -self._checked(row, found)) for found, row in pairs])

    def radius(self, tau: float, floor: float = 0.5) -> float:
        """The l2 radius sigma * (Phi^{-1}(tau) - Phi^{-1}(floor)), in pixels."""
        return self.law.radius(tau, floor)

    def covered_shifts(self, tau: float) -> int:
        """Number of shifts by whole pixels within ``radius(tau)``, the zero shift included."""
        square = self.radius(tau) ** 2
        top = math.floor(math.sqrt(square))
        steps = range(-top, top + 1)
        return sum(dy * dy + dx * dx <= square for dy in steps for dx in steps)

    def guarantee(self, tau: float) -> dict[str, Any]:
        """The shifts that a certificate at ``tau`` speaks of; see ``Perturbation``."""
        return {**super().guarantee(tau), 'covered_shifts': self.covered_shifts(tau)}

    def spec(self) -> dict[str, Any]:
        """Class name and sigma."""
        return {'type': 'CyclicTranslation', 'sigma': self.law.sigma}

    def _checked(self, parameter: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        parameter = super()._checked(parameter, inputs)
        if (parameter != parameter.round()).any():
            raise ValueError(f'a shift is one of whole pixels, got {parameter.tolist()}')
        return parameter

    def _transform(self, inputs: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        return _rolled(inputs, parameter)

    def _attack_set(self, tau: float) -> str:
        return '{cyclic translation by whole (dy, dx) : dy^2 + dx^2 <= radius^2}'

    def _attack_words(self, tau: float) -> str:
        return (
            f'cyclic translation by whole pixels, up to {self.radius(tau):.4g} of them in l2 norm, '
            f'the class of a component {READ_AT},'
        )


def _words(attack: str) -> str:
    return (
        f'{attack} changes the class that the smoothed model gives a certified component; {STAGE}'
    )


def _rolled(maps: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    down, right = (int(step) for step in shift)
    return maps.roll((down, right), (-2, -1))


def _contrast_range(contrast_range: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = contrast_range
    except (TypeError, ValueError):
        raise ValueError(
            f'contrast_range must be two factors (low, high), got {contrast_range!r}'
        ) from None
    low, high = (validate_positive(end, 'contrast_range') for end in (low, high))
    if not low <= 1 <= high:
        raise ValueError(
            f'contrast_range must hold the factor 1, low <= 1 <= high, got ({low}, {high})'
        )
    return low, high


def check_image(inputs: torch.Tensor, overshoot: float = OVERSHOOT) -> None:
    """Refuses what is evidently no image in [0, 1] units, attacked or not.

    Args:
        inputs (torch.Tensor): To be of shape (C, H, W), floating point.
        overshoot (float): How far beyond [0, 1] an attack may take its values.

    Raises:
        ValueError: If it is none; the message says what it is.
    """
    if inputs.ndim != 3:
        raise ValueError(f'expected an image, shape (C, H, W), got {tuple(inputs.shape)}')
    if not inputs.is_floating_point():
        raise ValueError(f'an image must be floating point, got {inputs.dtype}')
    if inputs.numel() == 0:
        raise ValueError(f'the image is empty: shape {tuple(inputs.shape)}')
    low, high = (float(value) for value in inputs.aminmax())
    if not (low >= -overshoot and high <= 1 + overshoot):
        raise ValueError(
            f'expected an image in [0, 1], attacked or not, got values from {low:.4g} to '
            f'{high:.4g}: the scales of the law are in these units; divide 0-255 images by 255'
        )
