"""What a model wants done to an image first: a part of the smoothed function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

RESAMPLING = {0: 'nearest', 2: 'bilinear', 3: 'bicubic'}
"""Pillow's numbers of the interpolations that tensors can have."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and normalisation of an image in [0, 1] units.

    It is done to each perturbed image, in floating point, so the certified radius holds for the
    image as it was before. Pixels are not clipped and not rounded.

    >>> preprocessing = Preprocessing(mean=[0.5] * 3, std=[0.25] * 3, size=(4, 6))
    >>> batch, inside = preprocessing(torch.ones(1, 3, 8, 12))
    >>> tuple(batch.shape), inside, batch[0, :, 0, 0].tolist()
    ((1, 3, 4, 6), (4, 6), [2.0, 2.0, 2.0])

    Attributes:
        mean (Sequence[float]): Subtracted from each channel, in the order that the model takes; or
            one number for all.
        std (Sequence[float]): Divides each channel.
        pixel_range (float): What white is when ``mean`` is subtracted: 1 or 255.
        channels (str): Order of the model's channels, 'rgb' or 'bgr'.
        size (tuple[int, int] | int | None): Height and width to resize to; one number is for the
            shorter side, and the longer one follows. None leaves the size as it is.
        longest (int | None): With a number as ``size``: most that the longer side may have.
        multiple (int): Both sides are resized to the next multiple of this.
        padded_to (int): After normalisation, zeros are added below and on the right, up to the next
            multiple of this. They are not labelled.
        interpolation (str): 'bilinear', 'bicubic' or 'nearest'.
        antialias (bool): Whether a smaller image is low-pass filtered, as Pillow does.

    Raises:
        ValueError: If a value is out of range.
    """

    mean: Sequence[float]
    std: Sequence[float]
    pixel_range: float = 1.0
    channels: str = 'rgb'
    size: tuple[int, int] | int | None = None
    longest: int | None = None
    multiple: int = 1
    padded_to: int = 1
    interpolation: str = 'bilinear'
    antialias: bool = True

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ('mean', 'std'):
            given = getattr(self, name)
            values = (given,) if isinstance(given, (int, float)) else given
            object.__setattr__(self, name, tuple(map(float, values)))
        if not {len(self.mean), len(self.std)} <= {1, 3}:
            raise ValueError(
                f'mean and std must have one number, or three, got {self.mean} and {self.std}'
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or 0.0 in self.std:
            raise ValueError(
                f'mean and std must be finite and std not 0, got {self.mean} and {self.std}'
            )
        if self.pixel_range not in (1, 255):
            raise ValueError(f'pixel_range must be 1 or 255, got {self.pixel_range!r}')
        if max(self.mean) > self.pixel_range:
            raise ValueError(
                f'mean {self.mean} is beyond white, which is {self.pixel_range:g}: for images in '
                '0-255 give mean and std divided by 255, or pixel_range=255 (--pixel-range 255)'
            )
        if self.channels not in ('rgb', 'bgr'):
            raise ValueError(f"channels must be 'rgb' or 'bgr', got {self.channels!r}")
        if self.interpolation not in RESAMPLING.values():
            raise ValueError(
                f'interpolation must be one of {", ".join(RESAMPLING.values())}, got '
                f'{self.interpolation!r}'
            )
        if isinstance(self.size, list):
            object.__setattr__(self, 'size', tuple(self.size))
        sides = self.size if isinstance(self.size, tuple) else (self.size or 1,)
        numbers = (*sides, self.longest or 1, self.multiple, self.padded_to)
        if len(sides) > 2 or not all(type(side) is int and side >= 1 for side in numbers):
            raise ValueError(
                f'size, longest, multiple and padded_to must be numbers of pixels, got {self.size},'
                f' {self.longest}, {self.multiple} and {self.padded_to}'
            )

    @classmethod
    def of(cls, processor: Any) -> Preprocessing:
        """What a library's own processor does, as far as it can be done to a perturbed image.

        Args:
            processor (Any): An image processor of transformers, or a processor that has one; a
                preset of torchvision (``weights.transforms()``); or the parameters of an encoder
                of segmentation-models-pytorch, a dict.

        Raises:
            ValueError: If it crops the image, or does something that is not known here.
        """
        if isinstance(processor, Mapping):
            return _of_encoder(processor)
        if hasattr(processor, 'resize_size'):
            return _of_torchvision(processor)
        image_processor = getattr(processor, 'image_processor', processor)
        if not hasattr(image_processor, 'image_mean'):
            raise ValueError(
                f'{type(processor).__name__} is no image processor that mmcert knows: give mean, '
                'std and size'
            )
        return _of_transformers(image_processor)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size to which an image is resized."""
        if self.size is None:
            found = height, width
        elif isinstance(self.size, int):
            found = _by_shorter_side(height, width, self.size, self.longest)
        else:
            found = self.size
        return tuple(-(-side // self.multiple) * self.multiple for side in found)  # type: ignore[return-value]

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Prepares images (B, 3, H, W), RGB in [0, 1] units, which may lie outside of it.

        Returns:
            tuple: The batch for the model, and the height and width in it that the image takes.
        """
        size = self.resized(*images.shape[-2:])
        if size != tuple(images.shape[-2:]):
            smooth = self.interpolation != 'nearest'
            images = F.interpolate(
                images,
                size=size,
                mode=self.interpolation if smooth else 'nearest-exact',
                antialias=self.antialias and smooth,
                **({'align_corners': False} if smooth else {}),
            )
        if self.channels == 'bgr':
            images = images.flip(1)
        # The operations of OpenMMLab's preprocessor, in the same order: they round alike.
        if self.pixel_range != 1:
            images = images * self.pixel_range
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        images = (images - mean) / std
        right, bottom = (-side % self.padded_to for side in (size[1], size[0]))
        return F.pad(images, (0, right, 0, bottom)) if right or bottom else images, size

    def to_dict(self) -> dict[str, Any]:
        """What certificates say of it, as JSON values; what is not done is left out."""
        values: dict[str, Any] = {
            'mean': list(self.mean),
            'std': list(self.std),
            'pixel_range': self.pixel_range,
            'channels': self.channels,
        }
        if self.size is not None or self.multiple > 1:
            size = list(self.size) if isinstance(self.size, tuple) else self.size
            values |= {'size': size, 'longest': self.longest, 'multiple': self.multiple}
            values |= {'interpolation': self.interpolation, 'antialias': self.antialias}
        if self.padded_to > 1:
            values['padded_to'] = self.padded_to
        return values


def _by_shorter_side(height: int, width: int, size: int, longest: int | None) -> tuple[int, int]:
    """The size with a given shorter side, computed as transformers and torchvision do."""
    short, long = sorted((height, width))
    wanted = float(size)
    if longest is not None and long / short * size > longest:
        wanted = longest * short / long
        size = round(wanted)
    if short == size:
        return height, width
    other = int(wanted * long / short)
    return (other, size) if width < height else (size, other)


def _of_transformers(processor: Any) -> Preprocessing:
    """That of an image processor of transformers."""
    name = type(processor).__name__

    def does(step: str) -> bool:
        return bool(getattr(processor, f'do_{step}', False))

    if does('center_crop') or does('crop_margin'):
        raise ValueError(
            f'{name} crops the image, so pixels at its border would get no label: set '
            'processor.do_center_crop = False, or give mean, std and size'
        )
    if does('pad') and getattr(processor, 'pad_size', None):
        raise ValueError(f'{name} pads images to one size: give mean, std and size')
    options: dict[str, Any] = {'mean': [0.0], 'std': [1.0]}
    if does('normalize'):
        options = {'mean': processor.image_mean, 'std': processor.image_std}
    factor = getattr(processor, 'rescale_factor', 1 / 255) if does('rescale') else 1.0
    if not (math.isclose(factor, 1 / 255) or factor == 1):
        raise ValueError(f'{name} multiplies pixels by {factor}: give mean, std and size')
    if factor == 1:
        options['pixel_range'] = 255
    if does('flip_channel_order'):
        options['channels'] = 'bgr'
    if does('resize'):
        options |= _size_of(processor, name)
    if options.get('channels') == 'bgr' and does('normalize'):
        raise ValueError(f'{name} flips the channels and normalises: give mean, std and channels')
    return Preprocessing(**options)


def _size_of(processor: Any, name: str) -> dict[str, Any]:
    """The resizing of an image processor of transformers."""
    resample = int(getattr(processor, 'resample', 2))
    if resample not in RESAMPLING:
        raise ValueError(
            f"{name} resizes by Pillow's method {resample}, which tensors do not have: set "
            'processor.resample = 2 (bilinear) or 3 (bicubic)'
        )
    found: dict[str, Any] = {'interpolation': RESAMPLING[resample]}
    given = processor.size
    size = {'shortest_edge': given} if isinstance(given, int) else dict(given)
    size = {key: value for key, value in size.items() if value is not None}
    if size.keys() == {'height', 'width'}:
        found['size'] = int(size['height']), int(size['width'])
    elif 'shortest_edge' in size and size.keys() <= {'shortest_edge', 'longest_edge'}:
        longest = size.get('longest_edge')
        found |= {'size': int(size['shortest_edge']), 'longest': longest and int(longest)}
    else:
        raise ValueError(f'{name} resizes to {size}, which mmcert does not know: give a size')
    if divisor := getattr(processor, 'size_divisor', None):
        found['multiple'] = int(divisor)
    if getattr(processor, 'keep_aspect_ratio', False):
        raise ValueError(
            f'{name} keeps the aspect ratio in a way of its own: set '
            'processor.keep_aspect_ratio = False, or give a size'
        )
    return found


def _of_torchvision(preset: Any) -> Preprocessing:
    """That of a preset of torchvision for segmentation."""
    if hasattr(preset, 'crop_size'):
        raise ValueError(f'{type(preset).__name__} crops the image: give mean, std and size')
    sizes = preset.resize_size
    size = sizes[0] if isinstance(sizes, (list, tuple)) and len(sizes) == 1 else sizes
    return Preprocessing(
        mean=preset.mean,
        std=preset.std,
        size=size,
        interpolation=getattr(preset.interpolation, 'value', 'bilinear'),
        antialias=bool(preset.antialias),
    )


def _of_encoder(parameters: Mapping[str, Any]) -> Preprocessing:
    """That of an encoder of segmentation-models-pytorch."""
    mean, std = parameters.get('mean'), parameters.get('std')
    return Preprocessing(
        mean=[0.0] if mean is None else mean,
        std=[1.0] if std is None else std,
        pixel_range=float((parameters.get('input_range') or [0, 1])[1]),
        channels=str(parameters.get('input_space') or 'RGB').lower(),
    )
