"""Denoisers that are trained here: DnCNN, and a small U-Net for CPUs."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mmcert.denoisers.base import Denoiser, Level


class ResidualDenoiser(Denoiser):
    """A denoiser whose network says what to subtract, as in DnCNN.

    Args:
        sigma (float | Sequence[float]): Noise level that it is made for, or a range (low, high).
        sigma_map (bool): Whether the noise level is one more channel of the input (FFDNet); without
            it, a denoiser for a range is blind.
        channels (int): Channels of the images.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self, sigma: float | Sequence[float], sigma_map: bool = False, channels: int = 3
    ) -> None:
        super().__init__(sigma)
        if channels < 1:
            raise ValueError(f'channels must be at least 1, got {channels}')
        self.told, self.channels = bool(sigma_map), channels

    @property
    def inputs(self) -> int:
        """Channels that the network takes."""
        return self.channels + self.told

    def forward(self, images: torch.Tensor, sigma: Level | None = None) -> torch.Tensor:
        """The images less what the network takes for noise; see ``Denoiser``.

        Raises:
            ValueError: If the images have another number of channels, or a noise level is missing.
        """
        if images.shape[1] != self.channels:
            raise ValueError(
                f'the denoiser was made for {self.channels} channels, got {images.shape[1]}'
            )
        inputs = images
        if self.told:
            if sigma is None:
                raise ValueError('this denoiser has a sigma map: it needs the noise level')
            levels = torch.as_tensor(sigma, dtype=images.dtype, device=images.device)
            levels = levels.expand(len(images))[:, None, None, None]
            inputs = torch.cat([images, levels.expand(-1, 1, *images.shape[-2:])], dim=1)
        return images - self.residual(inputs)

    @abstractmethod
    def residual(self, inputs: torch.Tensor) -> torch.Tensor:
        """What is subtracted, (B, channels, H, W), from images with their map, if there is one."""

    def spec(self) -> dict[str, Any]:
        """The arguments of the class, as JSON values."""
        return {
            'sigma': self.low if self.low == self.high else [self.low, self.high],
            'sigma_map': self.told,
            'channels': self.channels,
        }


class DnCNN(ResidualDenoiser):
    """DnCNN: a stack of convolutions at full resolution that predicts the noise.

    Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising",
    IEEE Transactions on Image Processing 26(7), 2017: convolution and ReLU, ``depth`` - 2 times
    convolution, batch normalisation and ReLU, convolution. In testing batch normalisation has the
    fixed statistics of training.

    Args:
        sigma (float | Sequence[float]): Noise level that it is made for, or a range (low, high).
        sigma_map (bool): Whether it is told the noise level.
        channels (int): Channels of the images.
        depth (int): Number of convolutions: 17 in the paper, 20 for its blind one.
        width (int): Channels between them.

    Raises:
        ValueError: If a value is out of range.

    Examples:
        >>> denoiser = DnCNN(sigma=0.25, depth=5, width=8).eval()
        >>> denoiser(torch.rand(2, 3, 20, 30)).shape
        torch.Size([2, 3, 20, 30])
    """

    def __init__(
        self,
        sigma: float | Sequence[float],
        sigma_map: bool = False,
        channels: int = 3,
        depth: int = 17,
        width: int = 64,
    ) -> None:
        super().__init__(sigma, sigma_map, channels)
        if depth < 2 or width < 1:
            raise ValueError(
                f'depth must be at least 2 and width at least 1, got {depth} and {width}'
            )
        self.depth, self.width = depth, width
        layers: list[nn.Module] = [nn.Conv2d(self.inputs, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))

    def residual(self, inputs: torch.Tensor) -> torch.Tensor:
        """The predicted noise."""
        return self.layers(inputs)

    def spec(self) -> dict[str, Any]:
        """The arguments of the class, as JSON values."""
        return {**super().spec(), 'depth': self.depth, 'width': self.width}


class UNetDenoiser(ResidualDenoiser):
    """A U-Net on squares of pixels, small enough for a CPU.

    Squares of ``block`` x ``block`` pixels become channels (FFDNet; Zhang, Zuo and Zhang, IEEE
    Transactions on Image Processing 27(9), 2018), which spares the resolution at which convolutions
    cost most. Then comes a U-Net of residual blocks without normalisation (DRUNet; Zhang et al.,
    "Plug-and-play image restoration with deep denoiser prior", 2021). Sides that are no multiple of
    ``block * 2^(levels - 1)`` are padded with the border's values. At the beginning of training it
    leaves images as they are.

    Args:
        sigma (float | Sequence[float]): Noise level that it is made for, or a range (low, high).
        sigma_map (bool): Whether it is told the noise level.
        channels (int): Channels of the images.
        widths (Sequence[int]): Channels at each level, from the finest to the coarsest.
        blocks (int): Residual blocks at each level, on the way down as on the way up.
        block (int): Side of the squares in pixels.

    Raises:
        ValueError: If a value is out of range.

    Examples:
        >>> denoiser = UNetDenoiser(sigma=(0.1, 0.5), sigma_map=True)
        >>> round(sum(p.numel() for p in denoiser.parameters()) / 1e6, 1)
        0.4
        >>> denoiser(torch.rand(2, 3, 21, 30), sigma=0.25).shape
        torch.Size([2, 3, 21, 30])
    """

    def __init__(
        self,
        sigma: float | Sequence[float],
        sigma_map: bool = False,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 96),
        blocks: int = 1,
        block: int = 2,
    ) -> None:
        super().__init__(sigma, sigma_map, channels)
        if not widths or min(*widths, blocks, block) < 1:
            raise ValueError(
                'widths, blocks and block must be at least 1, got '
                f'{list(widths)}, {blocks} and {block}'
            )
        self.widths, self.blocks, self.block = list(widths), blocks, block
        steps = list(zip(self.widths, self.widths[1:], strict=False))
        self.enter = nn.Conv2d(self.inputs * block**2, self.widths[0], 3, padding=1)
        self.down = nn.ModuleList(self._stage(width) for width in self.widths)
        self.coarser = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in steps)
        self.finer = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in steps)
        self.up = nn.ModuleList(self._stage(width) for width in self.widths[:-1])
        self.leave = nn.Conv2d(self.widths[0], channels * block**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def _stage(self, width: int) -> nn.Sequential:
        return nn.Sequential(*(ResidualBlock(width) for _ in range(self.blocks)))

    def residual(self, inputs: torch.Tensor) -> torch.Tensor:
        """What is subtracted, at the size of the images."""
        height, width = inputs.shape[-2:]
        unit = self.block * 2 ** (len(self.widths) - 1)
        padded = F.pad(inputs, (0, -width % unit, 0, -height % unit), mode='replicate')
        values = self.enter(F.pixel_unshuffle(padded, self.block))
        kept = []
        for stage, coarser in zip(self.down, self.coarser, strict=False):
            values = stage(values)
            kept.append(values)
            values = coarser(values)
        values = self.down[-1](values)
        for stage, finer in zip(reversed(self.up), reversed(self.finer), strict=True):
            values = stage(finer(values) + kept.pop())
        return F.pixel_shuffle(self.leave(values), self.block)[..., :height, :width]

    def spec(self) -> dict[str, Any]:
        """The arguments of the class, as JSON values."""
        sizes = {'widths': self.widths, 'blocks': self.blocks, 'block': self.block}
        return {**super().spec(), **sizes}


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them, beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Shape (B, width, h, w), kept."""
        return values + self.layers(values)
