"""What every denoiser is: a function from a noisy image to an image."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from mmcert.network_file import load_network, network_digest, save_network
from mmcert.perturbations.noise_level import validate_sigma_range
from mmcert.version import __version__

Level = float | torch.Tensor
"""A noise level for all images of a batch, or one for each, shape (B,)."""


class Denoiser(nn.Module, ABC):
    """A network that takes the noise out of an image, before a segmentor sees it.

    It must be a deterministic function of each image alone: no batch statistics, no random numbers,
    whatever else is in the batch. Then it is a part of the smoothed function, and its certificate
    holds whatever the denoiser does; how well it works decides only how much is certified.

    Args:
        sigma (float | Sequence[float]): Noise level that it was made for, in [0, 1] image units, or
            a range (low, high) of them.

    Attributes:
        low (float): Least noise level that it was made for, and ``high``, the largest.
        told (bool): Whether its result depends on the noise level that it is told; it is *blind*
            if not.

    Raises:
        ValueError: If ``sigma`` is out of range.
    """

    told: bool = False

    def __init__(self, sigma: float | Sequence[float]) -> None:
        super().__init__()
        self.low, self.high = validate_sigma_range(sigma)

    @abstractmethod
    def forward(self, images: torch.Tensor, sigma: Level | None = None) -> torch.Tensor:
        """The images without their noise: shape (B, C, H, W), kept, float32, not clipped.

        It takes noisy images in [0, 1] units (their values lie beyond [0, 1]) and, where the
        denoiser is told it, their noise level.
        """

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What makes the architecture, as JSON values."""

    def digest(self) -> str:
        """Digest of architecture and weights: what tells the function from others."""
        return network_digest({'type': type(self).__name__, **self.spec()}, self)

    @classmethod
    def from_checkpoint(cls, checkpoint: str | os.PathLike[str]) -> Denoiser:
        """The denoiser in a file; see ``load_denoiser``."""
        return load_denoiser(checkpoint, cls)


@dataclass(frozen=True, eq=False)
class Denoising:
    """A denoiser at work: the first step of the smoothed function.

    Attributes:
        denoiser (Denoiser): The denoiser.
        sigma (float | None): Noise level of the images, in [0, 1] units; None where it has none.
        file (str): Name of the file that it came from, for the reader.
    """

    denoiser: Denoiser
    sigma: float | None = None
    file: str = ''

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """A batch of noisy images (B, C, H, W) without their noise, float32.

        The weights come to the device of the images. A gradient is kept only for images that want
        one, as an attack's do.

        Raises:
            ValueError: If the denoiser gives another shape back.
        """
        denoiser = self.denoiser.to(images.device).eval()
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            denoised = denoiser(images, self.sigma if denoiser.told else None).float()
        if denoised.shape != images.shape:
            raise ValueError(
                f'{type(denoiser).__name__} made {tuple(denoised.shape)} of images '
                f'{tuple(images.shape)}: a denoiser must keep the shape'
            )
        return denoised

    @cached_property
    def _spec(self) -> dict[str, Any]:
        told = {'sigma': self.sigma} if self.denoiser.told else {}
        return {'type': type(self.denoiser).__name__, 'digest': self.denoiser.digest(), **told}

    def spec(self) -> dict[str, Any]:
        """What determines the function, as JSON values."""
        return dict(self._spec)

    def describe(self) -> str:
        """The denoiser, in words."""
        spec = self.spec()
        return f'the denoiser {spec["type"]} {spec["digest"][:8]}'

    def to_dict(self) -> dict[str, Any]:
        """What certificates say of it, as JSON values."""
        low, high = self.denoiser.low, self.denoiser.high
        return {
            **self.spec(),
            'file': self.file,
            'made_for_sigma': low if low == high else [low, high],
            'blind': not self.denoiser.told,
        }


def save_denoiser(
    path: str | os.PathLike[str], denoiser: Denoiser, trained_through: str = ''
) -> None:
    """Writes a denoiser to a file that ``load_denoiser`` reads.

    ``trained_through`` names the segmentor of the stability objective, for information: nothing of
    it is stored.
    """
    save_network(
        path,
        'denoiser',
        {'type': type(denoiser).__name__, **denoiser.spec()},
        denoiser,
        versions={'mmcert': __version__, 'torch': str(torch.__version__)},
        trained_through=trained_through,
    )


def load_denoiser(path: str | os.PathLike[str], cls: type[Denoiser]) -> Denoiser:
    """Reads a denoiser of some class that ``save_denoiser`` wrote.

    It is on the CPU, in evaluation mode, its weights frozen.

    Raises:
        ValueError: If the file is not one of a denoiser, or of another class.
        FileNotFoundError: If there is none.
    """
    spec, state = load_network(path, 'denoiser')
    kind = spec.pop('type', None)
    if kind != cls.__name__:
        raise ValueError(f'{path} holds a {kind}, not a {cls.__name__}: name that as the type')
    denoiser = cls(**spec)
    denoiser.load_state_dict(state)
    return denoiser.eval().requires_grad_(False)
