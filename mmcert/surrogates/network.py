"""The surrogate of a transformation: an image-to-image network with a noisy latent layer."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mmcert.network_file import load_network, network_digest, save_network
from mmcert.transformations import Transformation, build
from mmcert.transformations.base import Values

FREQUENCIES = 16
"""Points a side, for each degree, of the grid on which a convolution's norm is looked for."""

GROUPS = 8
"""Groups of the decoder's GroupNorm."""


class Surrogate(nn.Module):
    """H(F1(theta) + theta' + F2(x)): a network in place of a transformation T_theta(x).

    The architecture of GSmooth (Hao et al., "GSmooth: Certified robustness against semantic
    transformations via generalized randomized smoothing", ICML 2022): F1 is linear, F2 is
    convolutional, H is a U-Net with GroupNorm, and theta' is noise in the latent layer. Here the
    latent is coarse, one vector of ``latent_channels`` for each square of ``stride`` pixels, so
    that training can choose one that the transformation hardly moves.

    Parameters enter in units of the range: u = (theta - anchor) / scale, where ``anchor`` is the
    identity (or the mildest end of the range, where there is none) and ``scale`` the distance from
    it to the farther end of the range. So |u| <= 1 within the range. F1 adds the same vector at
    every place of the latent.

    Args:
        transformation (Transformation | Mapping | str): What is imitated.
        low (Sequence[float] | float): Lower ends of the parameters' range.
        high (Sequence[float] | float): Upper ends.
        channels (int): Channels of the images.
        latent_channels (int): Channels of the latent.
        stride (int): Side in pixels of the squares that a latent vector stands for.
        hidden (Sequence[int]): Channels of F2's hidden layers; none makes F2 linear.
        width (int): Channels of H at the latent's resolution, a multiple of 8.

    Raises:
        ValueError: If the range is not within the transformation's or has no extent, or a size is
            out of range.
    """

    def __init__(
        self,
        transformation: Transformation | Mapping[str, Any] | str,
        low: Sequence[float] | float,
        high: Sequence[float] | float,
        channels: int = 3,
        latent_channels: int = 48,
        stride: int = 8,
        hidden: Sequence[int] = (),
        width: int = 64,
    ) -> None:
        super().__init__()
        if not isinstance(transformation, Transformation):
            transformation = build(transformation)
        self.transformation = transformation
        self.low, self.high = (transformation.check_parameters(end) for end in (low, high))
        if self.low.dim() != 1 or not bool((self.low < self.high).all()):
            raise ValueError(
                f'{transformation.name}: needs one range low < high, got {low}, {high}'
            )
        for name, value in (('channels', channels), ('latent_channels', latent_channels)):
            if value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        if stride < 2 or stride % 2 or width % GROUPS or width < GROUPS:
            raise ValueError(
                f'stride must be even and at least 2, width a multiple of {GROUPS}; got stride '
                f'{stride} and width {width}'
            )
        self.channels, self.latent_channels, self.stride = channels, latent_channels, stride
        self.hidden, self.width = list(hidden), width
        self.parameter_encoder = nn.Linear(len(transformation.parameters), latent_channels)
        self.image_encoder = ImageEncoder(channels, self.hidden, latent_channels, stride)
        self.decoder = Decoder(latent_channels, width, channels, stride)

    @property
    def anchor(self) -> torch.Tensor:
        """Parameters that stand at u = 0, shape (P,), float64."""
        mild = [
            p.identity if p.identity is not None else (p.high if p.unit == 'quality' else p.low)
            for p in self.transformation.parameters
        ]
        return torch.tensor(mild, dtype=torch.float64).clamp(self.low, self.high)

    @property
    def scale(self) -> torch.Tensor:
        """One unit of u, (P,), float64: negative where the range extends farther downwards."""
        above, below = self.high - self.anchor, self.anchor - self.low
        return torch.where(above >= below, above, -below)

    def normalized(self, parameters: torch.Tensor) -> torch.Tensor:
        """Parameters (..., P) in units of the range."""
        _, _, anchor, scale = self._range(parameters.device)
        return (parameters.to(torch.float64) - anchor) / scale

    def parameters_at(self, u: torch.Tensor) -> torch.Tensor:
        """Parameters (..., P) of the real transformation that normalised ones u stand for, float64.

        They lie within the range: where it begins at the anchor, its mirror image stands in for
        negative u; integers are rounded.
        """
        low, high, anchor, scale = self._range(u.device)
        one_sided = (anchor == low) | (anchor == high)
        u = u.to(torch.float64)
        values = (anchor + scale * torch.where(one_sided, u.abs(), u)).clamp(low, high)
        whole = [p.integer for p in self.transformation.parameters]
        return torch.where(torch.tensor(whole, device=u.device), values.round(), values)

    def _range(self, device: torch.device) -> list[torch.Tensor]:
        """Lower end, higher end, anchor and scale of the range, on a device."""
        return [end.to(device) for end in (self.low, self.high, self.anchor, self.scale)]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """F2: images (B, C, H, W) to latents, one for each square: (B, latent_channels, h, w)."""
        if images.shape[1] != self.channels:
            raise ValueError(
                f'the surrogate was made for {self.channels} channels, got {images.shape[1]}'
            )
        return self.image_encoder(images)

    def shift(self, u: torch.Tensor) -> torch.Tensor:
        """F1 of normalised parameters (B, P), added to latents: (B, latent_channels, 1, 1)."""
        return self.parameter_encoder(u.to(self.parameter_encoder.weight.dtype))[..., None, None]

    def decode(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """H: latents (B, latent_channels, h, w) to images (B, C, *size), not clipped."""
        return self.decoder(latents, size)

    def forward(
        self, images: torch.Tensor, u: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The surrogate of the transformed images, in their shape, not clipped.

        It takes images (B, C, H, W) in [0, 1], normalised parameters (B, P), and maybe theta' in
        the shape of the latents.
        """
        latents = self.encode(images) + self.shift(u)
        if noise is not None:
            latents = latents + noise
        return self.decode(latents, (images.shape[-2], images.shape[-1]))

    def matrix(self) -> torch.Tensor:
        """A1 at one place of the latent, (latent_channels, P): F1(theta) = A1 u + b1 everywhere.

        Raises:
            ValueError: If F1 is not linear, which the certificate needs.
        """
        encoder = self.parameter_encoder
        if type(encoder) is not nn.Linear or encoder._forward_hooks or encoder._forward_pre_hooks:
            raise ValueError(
                f'the certificate needs a linear F1 (torch.nn.Linear without hooks), got {encoder}'
            )
        return encoder.weight.detach().double()

    def check_within(self, parameters: Values) -> torch.Tensor:
        """Parameters (N, P) as float64, if the surrogate was made for them.

        Raises:
            ValueError: If one lies outside the range.
        """
        rows = self.transformation.check_parameters(parameters)
        low, high, _, _ = self._range(rows.device)
        outside = ((rows < low) | (rows > high)).any(dim=-1)
        if bool(outside.any()):
            raise ValueError(
                f'{self.transformation.name}: the surrogate was made for parameters from '
                f'{self.low.tolist()} to {self.high.tolist()}, got {rows[outside][0].tolist()}: '
                'train one for a larger range'
            )
        return rows

    def spec(self) -> dict[str, Any]:
        """The arguments of the class, as JSON values."""
        sizes = ('channels', 'latent_channels', 'stride', 'hidden', 'width')
        return {
            'transformation': self.transformation.spec(),
            'low': self.low.tolist(),
            'high': self.high.tolist(),
            **{size: getattr(self, size) for size in sizes},
        }

    def digest(self) -> str:
        """Digest of architecture and weights."""
        return network_digest(self.spec(), self)


class ImageEncoder(nn.Module):
    """F2: convolutions, the first of which steps from square to square.

    Its kernel is twice as large. The image is continued by the mean level 1/2. Between the layers
    stands a leaky ReLU, of Lipschitz constant 1.
    """

    def __init__(
        self, channels: int, hidden: Sequence[int], latent_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.stride = stride
        first, *others = [*hidden, latent_channels]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, first, 2 * stride, stride, stride // 2, bias=bool(others))
        ]
        for before, after in zip([first, *others], others, strict=False):
            layers += [nn.LeakyReLU(0.1), nn.Conv2d(before, after, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) to latents."""
        below, right = (-side % self.stride for side in images.shape[-2:])
        return self.layers(F.pad(images - 0.5, (0, right, 0, below)))

    @torch.no_grad()
    def lipschitz(self) -> float:
        """A proven Lipschitz constant of F2 in l2, the product of its layers'.

        Padding by a constant changes no difference of images.
        """
        convolutions = (layer for layer in self.layers if isinstance(layer, nn.Conv2d))
        return math.prod(convolution_norm(layer.weight, layer.stride[0]) for layer in convolutions)


@torch.no_grad()
def convolution_norm(weight: torch.Tensor, stride: int) -> float:
    """An upper bound of the l2 norm of a convolution, for images of any size and zero padding.

    A convolution of a padded image is a part of the one of the image continued by zeros for ever.
    That one, read in squares of ``stride`` pixels, multiplies the Fourier series of the squares by
    M(v, w) = sum_ab W_ab exp(-i (a v + b w)), W_ab being the kernel's blocks of the squares' size,
    so its norm is the supremum of the spectral norm of M. Let this be G, attained at (v, w), and x,
    y be unit vectors with x^* M(v, w) y = G. With m + 1 blocks a side, p(s) = Re(e^{i m (s - v/2)}
    x^* M(2 s, w) y) is a trigonometric polynomial of degree m, half of what it is without the first
    factor, which centres the frequencies. It is at most G, and G at s = v / 2. By M. Riesz it is at
    least G cos(m d) at a distance d <= pi / (2 m) from there. Of N equally spaced points one is
    within pi / N of v, within pi / (2 N) in s, so the norm of M is at least G cos(m pi / (2 N)) at
    one of them. The same is then done in w. The weight is (outputs, inputs, k, k).
    """
    blocks = -(-weight.shape[-1] // stride)
    missing = blocks * stride - weight.shape[-1]
    padded = F.pad(weight.detach().double(), (0, missing, 0, missing))
    outputs = len(padded)
    split = padded.reshape(outputs, -1, blocks, stride, blocks, stride)
    kernels = split.permute(2, 4, 0, 1, 3, 5).reshape(blocks, blocks, outputs, -1)
    points = max(FREQUENCIES * (blocks - 1), 1)
    angle = torch.arange(points, dtype=torch.float64, device=weight.device) * (2 * math.pi / points)
    turn = torch.exp(-1j * angle[:, None] * torch.arange(blocks, device=weight.device))
    symbol = torch.einsum('va,wb,abop->vwop', turn, turn, kernels.to(turn.dtype))
    largest = float(torch.linalg.matrix_norm(symbol, 2).max())
    return largest / math.cos((blocks - 1) * math.pi / (2 * points)) ** 2


class Decoder(nn.Module):
    """H: a U-Net with GroupNorm at the latent's resolution, then squares of ``stride`` pixels.

    It has ``width`` channels at the latent's resolution, and twice as many below.
    """

    def __init__(self, latent_channels: int, width: int, channels: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.top = Residual(width)
        self.down1 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.middle = Residual(2 * width)
        self.down2 = nn.Conv2d(2 * width, 2 * width, 3, 2, 1)
        self.bottom = Residual(2 * width)
        self.join2, self.up2 = nn.Conv2d(4 * width, 2 * width, 1), Residual(2 * width)
        self.join1, self.up1 = nn.Conv2d(3 * width, width, 1), Residual(width)
        self.leave = nn.Conv2d(width, channels * stride**2, 3, padding=1)
        self.stride = stride

    def forward(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Latents to images of a size."""
        top = self.top(self.enter(latents))
        middle = self.middle(self.down1(top))
        bottom = self.bottom(self.down2(middle))
        middle = self.up2(self.join2(_joined(bottom, middle)))
        top = self.up1(self.join1(_joined(middle, top)))
        images = F.pixel_shuffle(self.leave(top), self.stride) + 0.5
        return images[..., : size[0], : size[1]]


class Residual(nn.Module):
    """Two convolutions with GroupNorm beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Shape (B, width, h, w), kept."""
        return F.silu(values + self.layers(values))


def _joined(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Coarse features beside fine ones, at the size of the fine ones."""
    return torch.cat([F.interpolate(coarse, size=fine.shape[-2:]), fine], dim=1)


def save_surrogate(path: str | os.PathLike[str], surrogate: Surrogate) -> None:
    """Writes a surrogate to a file that ``load_surrogate`` reads."""
    save_network(path, 'surrogate', surrogate.spec(), surrogate)


def load_surrogate(path: str | os.PathLike[str]) -> Surrogate:
    """Reads a surrogate that ``save_surrogate`` wrote (as ``tools/train_surrogate.py`` does).

    It is on the CPU, in evaluation mode, its weights frozen.

    Raises:
        ValueError: If the file is not one of a surrogate.
        FileNotFoundError: If there is none.
    """
    spec, state = load_network(path, 'surrogate')
    surrogate = Surrogate(**spec)
    surrogate.load_state_dict(state)
    return surrogate.eval().requires_grad_(False)
