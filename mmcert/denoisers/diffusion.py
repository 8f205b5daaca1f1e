"""One-shot denoising by a diffusion model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mmcert.denoisers.base import Denoiser, Level
from mmcert.safe_loading import only_weights

PREDICTIONS = ('epsilon', 'sample', 'v_prediction')
"""What a diffusion model may predict."""


class DiffusionDenoiser(Denoiser):
    """A diffusion model's estimate of the clean image, in one deterministic step.

    Carlini et al., "(Certified!!) Adversarial robustness for free!", ICLR 2023: an image with noise
    of level sigma is, but for a factor, what the model was trained to see at the time t at which
    sqrt((1 - a_t) / a_t) = 2 sigma (the model's images lie in [-1, 1], twice as wide as [0, 1];
    a_t is ``alphas_cumprod``). So x_t = sqrt(a_t) x goes in at the nearest t, and the model's
    prediction gives x_0, which is clipped to [0, 1] as the model's sampler does. Nothing is drawn.

    The network sees squares of ``tile`` pixels. A larger image is cut into tiles that overlap by at
    least ``overlap``, blended by fixed weights; a smaller one is padded with the border's values.

    Args:
        network (nn.Module): Called as ``network(images, times)`` with images (B, 3, tile, tile) in
            [-1, 1] times sqrt(a_t), RGB, and times (B,), int64. It returns a tensor, or an object
            with one in ``sample``, of as many channels or twice as many (a learned variance, which
            is left out).
        alphas_cumprod (torch.Tensor | Sequence[float]): The product a_t for each time t.
        tile (int): Side in pixels of what the network takes.
        prediction_type (str): 'epsilon', 'sample' or 'v_prediction', as in diffusers.
        overlap (int | None): Least overlap of tiles in pixels; by default a quarter of a tile.
        bgr (bool): Whether the images are BGR, as OpenMMLab's pipelines load them.

    Raises:
        ValueError: If a value is out of range.

    Examples:
        >>> class Identity(nn.Module):  # Takes all that it sees for the image.
        ...     def forward(self, images, times):
        ...         return images
        >>> steps = torch.linspace(0.9999, 0.01, 100)
        >>> denoiser = DiffusionDenoiser(Identity(), steps, tile=16, prediction_type='sample')
        >>> denoiser.time(sigma=0.25)
        20
        >>> denoiser(torch.rand(1, 3, 20, 30), sigma=0.25).shape
        torch.Size([1, 3, 20, 30])
    """

    told = True

    def __init__(
        self,
        network: nn.Module,
        alphas_cumprod: torch.Tensor | Sequence[float],
        tile: int,
        prediction_type: str = 'epsilon',
        overlap: int | None = None,
        bgr: bool = True,
    ) -> None:
        alphas = torch.as_tensor(alphas_cumprod).detach().to(torch.float64)
        if alphas.dim() != 1 or not len(alphas) or not bool(((alphas > 0) & (alphas < 1)).all()):
            raise ValueError(f'alphas_cumprod must be numbers between 0 and 1, got {alphas}')
        if prediction_type not in PREDICTIONS:
            raise ValueError(
                f'prediction_type must be one of {", ".join(PREDICTIONS)}, got {prediction_type!r}'
            )
        overlap = tile // 4 if overlap is None else overlap
        if tile < 1 or not 0 <= overlap < tile:
            raise ValueError(
                f'tile must be at least 1 and overlap from 0 to less than that, got {tile} and '
                f'{overlap}'
            )
        levels = ((1 - alphas) / alphas).sqrt() / 2
        super().__init__((float(levels.min()), min(float(levels.max()), 5.0)))
        self.network, self.prediction_type = network, prediction_type
        self.tile, self.overlap, self.bgr = tile, overlap, bgr
        self.register_buffer('alphas_cumprod', alphas)
        self._levels = levels.tolist()
        self._alphas = alphas.tolist()

    @classmethod
    def from_checkpoint(
        cls, checkpoint: str | os.PathLike[str], overlap: int | None = None, bgr: bool = True
    ) -> DiffusionDenoiser:
        """A pipeline of diffusers in a folder: ``unet`` and ``scheduler``, as it saves them.

        Raises:
            FileNotFoundError: If there is no such folder.
            RuntimeError: If diffusers is not installed.
        """
        folder = Path(checkpoint)
        if missing := [part for part in ('unet', 'scheduler') if not (folder / part).is_dir()]:
            raise FileNotFoundError(
                f'{folder} has no folder {" or ".join(missing)}: it must be an unconditional '
                'pipeline of diffusers on this machine, such as '
                'DDPMPipeline.from_pretrained(NAME).save_pretrained(FOLDER) leaves'
            )
        try:
            from diffusers import DDPMScheduler, UNet2DModel
        except ImportError as error:
            raise RuntimeError(
                "mmcert.DiffusionDenoiser needs diffusers: pip install 'mmcert[diffusion]'"
            ) from error
        with only_weights():
            network = UNet2DModel.from_pretrained(
                folder / 'unet', local_files_only=True, low_cpu_mem_usage=False
            )
        # Only its betas and its kind of prediction are read: those of any scheduler will do.
        schedule = DDPMScheduler.from_pretrained(folder / 'scheduler', local_files_only=True)
        side = network.config.sample_size
        tile = side if isinstance(side, int) else min(side)
        kind = schedule.config.prediction_type
        made = cls(network, schedule.alphas_cumprod, tile, kind, overlap, bgr)
        return made.eval().requires_grad_(False)

    def time(self, sigma: float) -> int:
        """The time t whose noise is nearest to a level in [0, 1] image units.

        Raises:
            ValueError: If the level is beyond all times.
        """
        if not 0 < sigma <= self._levels[-1]:
            raise ValueError(
                f'sigma={sigma} has no time: the last one of this diffusion model has '
                f'{self._levels[-1]:.4g}'
            )
        return min(range(len(self._levels)), key=lambda time: abs(self._levels[time] - sigma))

    def forward(self, images: torch.Tensor, sigma: Level | None = None) -> torch.Tensor:
        """The estimates of clean images; see ``Denoiser``. One noise level is for all images.

        Raises:
            ValueError: If the images do not have three channels, or the level is missing.
        """
        if images.shape[1] != 3:
            raise ValueError(f'diffusion models take 3 channels, got {images.shape[1]}')
        if sigma is None or isinstance(sigma, torch.Tensor):
            raise ValueError('a diffusion model needs one noise level for all images')
        time = self.time(sigma)
        height, width = images.shape[-2:]
        below, right = max(self.tile - height, 0), max(self.tile - width, 0)
        padded = F.pad(images, (0, right, 0, below), mode='replicate')
        total = torch.zeros_like(padded, dtype=torch.float32)
        weight = torch.zeros(padded.shape[-2:], device=images.device)
        window = self._window().to(images.device)
        for top in tile_starts(padded.shape[-2], self.tile, self.overlap):
            for left in tile_starts(padded.shape[-1], self.tile, self.overlap):
                place = ..., slice(top, top + self.tile), slice(left, left + self.tile)
                total[place] += window * self._step(padded[place], time)
                weight[place] += window
        return (total / weight)[..., :height, :width]

    def _step(self, tiles: torch.Tensor, time: int) -> torch.Tensor:
        """x_0 in [0, 1] units of tiles (B, 3, tile, tile) in [0, 1] units."""
        alpha = self._alphas[time]
        signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
        ordered = tiles.flip(1) if self.bgr else tiles
        scaled = signal * (2 * ordered - 1)
        times = torch.full((len(tiles),), time, dtype=torch.int64, device=tiles.device)
        found = self.network(scaled, times)
        found = (found if isinstance(found, torch.Tensor) else found.sample)[:, :3].float()
        if self.prediction_type == 'epsilon':
            estimate = (scaled - noise * found) / signal
        elif self.prediction_type == 'v_prediction':
            estimate = signal * scaled - noise * found
        else:
            estimate = found
        estimate = (estimate.clamp(-1, 1) + 1) / 2
        return estimate.flip(1) if self.bgr else estimate

    def _window(self) -> torch.Tensor:
        """The weights of a tile: from the border they rise over the overlap."""
        distance = torch.arange(self.tile, dtype=torch.float32)
        distance = torch.minimum(distance, distance.flip(0)) + 1
        side = (distance / (self.overlap + 1)).clamp(max=1)
        return side[:, None] * side

    def spec(self) -> dict[str, Any]:
        """What makes the function beside the weights, as JSON values."""
        config = getattr(self.network, 'config', None)
        if config is None:
            # Its modules with their options, in words.
            config = {'modules': str(self.network)}
        return {
            'network': type(self.network).__name__,
            # Where it came from and which version wrote it do not matter.
            'config': {key: config[key] for key in sorted(config) if not key.startswith('_')},
            'tile': self.tile,
            'prediction_type': self.prediction_type,
            'overlap': self.overlap,
            'bgr': self.bgr,
        }


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover ``size`` pixels, evenly, with at least so much overlap.

    >>> tile_starts(480, tile=256, overlap=64)
    [0, 112, 224]
    """
    if size <= tile:
        return [0]
    count = math.ceil((size - overlap) / (tile - overlap))
    return [round(index * (size - tile) / (count - 1)) for index in range(count)]
