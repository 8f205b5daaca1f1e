"""The noise of training: what smoothing will do to an image, drawn on the device for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmcert.perturbations import Perturbation
from mmcert.perturbations.noise_level import (
    validate_prob,
    validate_sigma,
    validate_sigma_range,
)


def reverses_channels(preprocessor: Any) -> bool:
    """Whether a data preprocessor gives a model the channels of an image in reverse.

    The attribute has one name in mmsegmentation, and another in mmengine and in the fork
    onedl-mmsegmentation.
    """
    names = ('channel_conversion', '_channel_conversion')
    return any(bool(getattr(preprocessor, name, False)) for name in names)


@dataclass(frozen=True)
class ImageUnits:
    """How a model's preprocessor takes images in [0, 1] to what enters the model.

    Attributes:
        mean (torch.Tensor): Of the 0-255 image, shape (C or 1, 1, 1), in the order of the model's
            channels.
        std (torch.Tensor): Likewise.
        reversed_channels (bool): Whether the model's channels are those of the pipeline, reversed.
    """

    mean: torch.Tensor
    std: torch.Tensor
    reversed_channels: bool = False

    @classmethod
    def of(cls, model: Any) -> ImageUnits:
        """Those of an mmsegmentation model."""
        preprocessor = model.data_preprocessor
        if not getattr(preprocessor, '_enable_normalize', False):
            parameter = next(model.parameters())
            zero = torch.zeros(1, 1, 1, device=parameter.device)
            mean, std = zero, zero + 1
        else:
            mean, std = preprocessor.mean.float(), preprocessor.std.float()
        return cls(mean, std, reverses_channels(preprocessor))

    def to_unit(self, images: torch.Tensor) -> torch.Tensor:
        """Images (..., C, H, W) as they enter the model, in [0, 1] as the pipeline has them."""
        return self._ordered((images * self.std + self.mean) / 255)

    def from_unit(self, images: torch.Tensor) -> torch.Tensor:
        """The other way."""
        return (self._ordered(images) * 255 - self.mean) / self.std

    @property
    def per_unit(self) -> torch.Tensor:
        """What a difference of 1 in [0, 1] units is to the model, shape (C or 1, 1, 1)."""
        return 255 / self.std

    def _ordered(self, images: torch.Tensor) -> torch.Tensor:
        three = images.shape[-3] == 3
        return images.flip(-3) if self.reversed_channels and three else images


class TrainingNoise:
    """Several noisy copies of a batch of images, each with draws of its own.

    Either Gaussian noise of a level ``sigma``, which all copies of an image share, or a
    perturbation as for ``smoothing``. Padding stays as it is. Draws follow torch's global
    generators, which mmengine seeds.

    Args:
        sigma (float | Sequence[float] | Mapping | None): Noise level in [0, 1] image units; or a
            range (low, high) from which each image draws its own uniformly; or
            dict(choices=[...]), levels among which each image chooses.
        perturbation (Perturbation | None): Instead of ``sigma``, a perturbation of images that
            moves no labels.
        copies (int): Noisy copies of each image in a step.
        prob (float): Share of the copies that get noise; the others stay clean.
        warmup (int): Iterations over which ``sigma`` rises linearly from 0.

    Raises:
        ValueError: If an argument is out of range, or not exactly one of ``sigma`` and
            ``perturbation`` is given.

    Example:
        >>> noise = TrainingNoise(sigma=0.2, copies=2)
        >>> units = ImageUnits(torch.tensor([[[127.5]]]), torch.tensor([[[50.0]]]))
        >>> noisy = noise.draw(torch.zeros(1, 3, 64, 64), [(64, 64)], units)
        >>> noisy.shape, round(float(noisy.std() * 50 / 255), 1)
        (torch.Size([2, 1, 3, 64, 64]), 0.2)
    """

    def __init__(
        self,
        sigma: float | Sequence[float] | Mapping[str, Any] | None = None,
        perturbation: Perturbation | None = None,
        copies: int = 1,
        prob: float = 1.0,
        warmup: int = 0,
    ) -> None:
        if (sigma is None) == (perturbation is None):
            raise ValueError('training noise needs either sigma or perturbation')
        self.perturbation = perturbation
        self.choices: list[float] | None = None
        self.low = self.high = 0.0
        if perturbation is not None:
            if perturbation.domain != 'image' or perturbation.moves_labels:
                raise ValueError(
                    'noisy copies need a perturbation of images that moves no labels, got '
                    f'{perturbation}'
                )
            if warmup:
                raise ValueError('warmup is of sigma; a perturbation does not take it')
        elif isinstance(sigma, Mapping):
            if set(sigma) != {'choices'} or not sigma['choices']:
                raise ValueError(
                    f'sigma must be a level, (low, high) or dict(choices=[...]), got {sigma}'
                )
            self.choices = [level and validate_sigma(level) for level in sigma['choices']]
        else:
            assert sigma is not None
            self.low, self.high = validate_sigma_range(sigma)
        if copies < 1 or warmup < 0:
            raise ValueError(f'needs copies >= 1 and warmup >= 0, got {copies} and {warmup}')
        self.copies, self.warmup = copies, warmup
        self.prob = validate_prob(prob)

    def draw(
        self,
        images: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
        units: ImageUnits,
        iteration: int = 0,
    ) -> torch.Tensor:
        """Noisy copies of a batch, as they enter the model.

        Args:
            images (torch.Tensor): Normalised and padded, shape (B, C, H, W).
            sizes (Sequence[tuple[int, int]]): Height and width of each without its padding, which
                is below and to the right.
            units (ImageUnits): Of the model.
            iteration (int): Of the training, for the warm-up.

        Returns:
            torch.Tensor: Shape (copies, B, C, H, W), not clipped.
        """
        count, device = len(images), images.device
        noisy_ones = torch.rand(self.copies, count, device=device) < self.prob
        if self.perturbation is not None:
            return self._perturbed(images, sizes, units, noisy_ones)
        levels = self._levels(count, device, iteration) * noisy_ones
        noise = torch.randn(self.copies, *images.shape, device=device)
        noise *= levels[:, :, None, None, None] * units.per_unit
        for index, (height, width) in enumerate(sizes):
            noise[:, index, :, height:] = 0
            noise[:, index, :, :, width:] = 0
        return noise.add_(images)

    def _levels(self, count: int, device: torch.device, iteration: int) -> torch.Tensor:
        """The noise level of each image."""
        if self.choices is not None:
            known = torch.tensor(self.choices, device=device)
            levels = known[torch.randint(len(known), (count,), device=device)]
        else:
            share = torch.rand(count, device=device)
            levels = self.low + (self.high - self.low) * share
        return levels * min(1.0, (iteration + 1) / self.warmup) if self.warmup else levels

    def _perturbed(
        self,
        images: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
        units: ImageUnits,
        noisy_ones: torch.Tensor,
    ) -> torch.Tensor:
        assert self.perturbation is not None
        result = images.repeat(self.copies, 1, 1, 1, 1)
        seeds = torch.randint(2**62, (len(images), self.copies)).tolist()
        for index, (height, width) in enumerate(sizes):
            image = units.to_unit(images[index, :, :height, :width])
            generators = [torch.Generator(image.device).manual_seed(s) for s in seeds[index]]
            parameters = self.perturbation.draw(image, generators)
            drawn = self.perturbation.apply(image, parameters)
            for copy, perturbed in enumerate(drawn):
                if noisy_ones[copy, index]:
                    result[copy, index, :, :height, :width] = units.from_unit(perturbed)
        return result
