"""Blurs: each averages an image with copies of itself; labels stay in place."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from mmcert.transformations.base import Parameter, Transformation
from mmcert.transformations.cosine import blurred, dct
from mmcert.transformations.geometry import move_bilinear, rotation_matrices, scaling_matrices
from mmcert.transformations.operators import convolve


class GaussianBlur(Transformation):
    """Gaussian blur in its DCT form, by the kernel's variance.

    The image's DCT-II coefficient of frequencies (v, w) is multiplied by
    exp(-variance (v^2 + w^2) / 2): the continuous Gaussian on the reflected, band-limited image,
    exactly additive in the variance, as the direct certificate wants it. From a standard deviation
    of about 1.5 on it agrees with sampled kernels to 1e-5; for smaller ones it may overshoot [0, 1]
    at edges, and is not clipped. Severities: the corruption benchmark's standard deviations,
    1, 2, 3, 4, 6.
    """

    name = 'gaussian_blur'
    parameters = (Parameter('variance', 'px^2', 0, 2500, 0),)
    severities = ((1,), (4,), (9,), (16,), (36,))

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Blurs each image; see the base class."""
        # There are no Fourier transforms below single precision.
        precise = images if images.dtype == torch.float64 else images.float()
        return blurred(dct(precise), parameters).to(images.dtype)

    def operator(self) -> str:
        """The definition in words."""
        return 'DCT-II multiplier exp(-variance * w^2 / 2), reflected border, not clipped'


class KernelBlur(Transformation):
    """A blur by a kernel that depends on the parameters alone; the border is reflected."""

    @abstractmethod
    def kernels(self, parameters: torch.Tensor) -> torch.Tensor:
        """The kernels.

        Args:
            parameters (torch.Tensor): Shape (B, P), float64.

        Returns:
            torch.Tensor: Shape (B, h, w), h and w odd, float64; each sums to 1 and is the same
            under a half turn.
        """

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Filters each image with its kernel; see the base class."""
        return convolve(images, self.kernels(parameters))


class DefocusBlur(KernelBlur):
    """Mean over a disk: a lens out of focus.

    Two kernels for a radius r, with d the distance from the centre:

    * 'disk' (default), continuous in r: weight clip(r + 1/2 - d, 0, 1), a disk whose edge falls
      linearly over one pixel. Radii up to 1/2 leave the image as it is.
    * 'benchmark', the corruption benchmark's, piecewise constant in r: the pixels with d <= r,
      softened by OpenCV's Gaussian of standard deviation 0.5 and 3 x 3 pixels (5 x 5 for r > 8),
      and for r <= 3 of 0.1, which is no softening. Radii below 1 leave the image as it is.

    Kernels sum to 1 (the benchmark's for radii 8 and 10 miss that by about 1 %), and the border is
    reflected about the pixels' edges (the benchmark: about their centres).
    Severities: the benchmark's radii, 3, 4, 6, 8, 10.

    Args:
        kernel (str): 'disk' or 'benchmark'.

    Raises:
        ValueError: If the kernel is neither.
    """

    name = 'defocus_blur'
    parameters = (Parameter('radius', 'px', 0, 50, 0),)
    severities = ((3,), (4,), (6,), (8,), (10,))

    def __init__(self, kernel: str = 'disk') -> None:
        if kernel not in ('disk', 'benchmark'):
            raise ValueError(f"defocus_blur: kernel must be 'disk' or 'benchmark', got {kernel!r}")
        self.kernel = kernel

    def kernels(self, parameters: torch.Tensor) -> torch.Tensor:
        """The disks; see the base class."""
        radius = parameters[:, 0]
        if self.kernel == 'benchmark':
            disks = [benchmark_disk(r) for r in radius.tolist()]
            largest = max(len(disk) for disk in disks)
            margins = [(largest - len(disk)) // 2 for disk in disks]
            padded = [F.pad(d, (m, m, m, m)) for d, m in zip(disks, margins, strict=True)]
            return torch.stack(padded).to(parameters.device)
        half = max(math.ceil(float(radius.detach().max()) + 0.5) - 1, 0)
        weights = (radius[:, None, None] + 0.5 - distances(half, parameters.device)).clamp(0, 1)
        return weights / weights.sum(dim=(1, 2), keepdim=True)

    def options(self) -> dict[str, Any]:
        """Arguments of the class."""
        return {'kernel': self.kernel}

    def operator(self) -> str:
        """The definition in words."""
        if self.kernel == 'disk':
            kernel = 'weights clip(radius + 1/2 - d, 0, 1) at distance d'
        else:
            kernel = 'pixels at distance <= radius, softened as in the corruption benchmark'
        return f'mean over a disk: {kernel}; reflected border'


def distances(half: int, device: torch.device | None = None) -> torch.Tensor:
    """Distances from the centre of a square of 2 * half + 1 pixels a side, float64."""
    offset = torch.arange(-half, half + 1, dtype=torch.float64, device=device)
    return torch.hypot(offset[:, None], offset)


def benchmark_disk(radius: float) -> torch.Tensor:
    """The corruption benchmark's defocus kernel.

    Hendrycks and Dietterich 2019, with their softening by radius: standard deviation 0.1 up to
    radius 3, and 0.5 above. As there, the disk of radius 8 fills its square to the edge, and the
    softening reflects there. Unlike theirs it is normalised; zeros around it are cut off.

    Args:
        radius (float): In pixels, at least 0.

    Returns:
        torch.Tensor: Shape (k, k), k odd, float64; sums to 1.
    """
    half, taps = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    disk = (distances(half) <= radius).to(torch.float64)
    offset = torch.arange(-taps, taps + 1, dtype=torch.float64)
    gauss = torch.exp(-0.5 * (offset / (0.1 if radius <= 3 else 0.5)) ** 2)
    gauss = gauss / gauss.sum()
    padded = F.pad((disk / disk.sum())[None, None], (taps,) * 4, mode='reflect')
    soft = F.conv2d(padded, (gauss[:, None] * gauss)[None, None])[0, 0]
    used = int((soft[half] > 1e-12).sum()) // 2
    soft = soft[half - used : half + used + 1, half - used : half + used + 1]
    return soft / soft.sum()


class MotionBlur(KernelBlur):
    """Mean along a straight line through each pixel: the camera moves.

    The kernel is that of bilinear interpolation at the midpoints of K equal parts of a centred
    line, so it is continuous in length and angle. Angle 0 is horizontal, positive angles turn
    anticlockwise as seen. The corruption benchmark weights one half of a line with a Gaussian, at a
    random angle; our severities are horizontal and have its standard deviations along the line:
    lengths 6.5, 10.6, 14, 15.3, 19.9.

    Args:
        steps (int): K, at least 1; the default keeps the steps below a pixel.

    Raises:
        ValueError: If ``steps`` is below 1.
    """

    name = 'motion_blur'
    parameters = (
        Parameter('length', 'px', 0, 100, 0),
        Parameter('angle', 'degrees', -180, 180, 0),
    )
    severities = ((6.5, 0), (10.6, 0), (14.0, 0), (15.3, 0), (19.9, 0))

    def __init__(self, steps: int = 128) -> None:
        self.steps = check_steps(self.name, steps, 1)

    def kernels(self, parameters: torch.Tensor) -> torch.Tensor:
        """The lines; see the base class."""
        length, angle = parameters[:, 0], torch.deg2rad(parameters[:, 1])
        part = torch.arange(self.steps, dtype=torch.float64, device=parameters.device)
        place = (part + 0.5) / self.steps - 0.5
        across = _hats((length * torch.cos(angle))[:, None] * place)
        down = _hats(-(length * torch.sin(angle))[:, None] * place)
        return torch.einsum('bky,bkx->byx', down, across) / self.steps

    def options(self) -> dict[str, Any]:
        """Arguments of the class."""
        return {'steps': self.steps}

    def operator(self) -> str:
        """The definition in words."""
        return (
            f'mean of {self.steps} bilinear shifts, the midpoints of equal parts of a centred '
            'line; reflected border'
        )


def _hats(places: torch.Tensor) -> torch.Tensor:
    """Weights of linear interpolation at places (B, K), shape (B, K, 2 * half + 1)."""
    half = math.ceil(float(places.detach().abs().max()) - 1e-9)
    offset = torch.arange(-half, half + 1, dtype=places.dtype, device=places.device)
    return (1 - (places[..., None] - offset).abs()).clamp(min=0)


class MeanOfMoves(Transformation):
    """A blur that averages K copies of the image, each moved by a linear map about the centre.

    Bilinear interpolation, the border reflected about the outer pixels' edges.

    Args:
        steps (int): K, at least 2.

    Raises:
        ValueError: If ``steps`` is below 2.
    """

    default_steps: ClassVar[int]

    def __init__(self, steps: int | None = None) -> None:
        self.steps = check_steps(self.name, self.default_steps if steps is None else steps, 2)

    @abstractmethod
    def backward_map(self, parameter: torch.Tensor, part: float) -> torch.Tensor:
        """Where pixels' content comes from in one of the copies.

        Args:
            parameter (torch.Tensor): Shape (B,), float64.
            part (float): Place of the copy, from 0 (first) to 1 (last).

        Returns:
            torch.Tensor: Shape (B, 2, 2).
        """

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Averages the copies of each image; see the base class."""
        total = torch.zeros_like(images)
        for step in range(self.steps):
            backward = self.backward_map(parameters[:, 0], step / (self.steps - 1))
            total = total + move_bilinear(images, backward)
        return total / self.steps

    def options(self) -> dict[str, Any]:
        """Arguments of the class."""
        return {'steps': self.steps}


class RotationalBlur(MeanOfMoves):
    """Mean over rotations about the centre, by K equally spaced angles from -angle to angle.

    Severities (ours: the corruption benchmark has none): 1, 2, 3, 5, 8 degrees.

    Args:
        steps (int): K, at least 2; 15 unless said.

    Raises:
        ValueError: If ``steps`` is below 2.
    """

    name = 'rotational_blur'
    parameters = (Parameter('angle', 'degrees', 0, 90, 0),)
    default_steps = 15
    severities = ((1,), (2,), (3,), (5,), (8,))

    def backward_map(self, parameter: torch.Tensor, part: float) -> torch.Tensor:
        """The inverse rotation of a copy; see the base class."""
        return rotation_matrices(-parameter * (2 * part - 1))

    def operator(self) -> str:
        """The definition in words."""
        return (
            f'mean of {self.steps} rotations about the centre by equally spaced angles from -angle '
            'to angle, bilinear, reflected border'
        )


class ZoomBlur(MeanOfMoves):
    """Mean over enlargements about the centre, by K equally spaced factors from 1 to ``factor``.

    The corruption benchmark uses 11 to 16 factors, by severity, counts the original twice and
    interpolates on OpenCV-like crops. Severities: the ends of its ranges, 1.11, 1.15, 1.2, 1.24,
    1.3.

    Args:
        steps (int): K, at least 2; 16 unless said.

    Raises:
        ValueError: If ``steps`` is below 2.
    """

    name = 'zoom_blur'
    parameters = (Parameter('factor', 'factor', 1, 4, 1),)
    default_steps = 16
    severities = ((1.11,), (1.15,), (1.2,), (1.24,), (1.3,))

    def backward_map(self, parameter: torch.Tensor, part: float) -> torch.Tensor:
        """The inverse enlargement of a copy; see the base class."""
        return scaling_matrices(1 / (1 + (parameter - 1) * part))

    def operator(self) -> str:
        """The definition in words."""
        return (
            f'mean of {self.steps} enlargements about the centre by equally spaced factors from 1 '
            'to factor, bilinear, reflected border'
        )


def check_steps(name: str, steps: int, least: int) -> int:
    """Checks a number of copies or parts.

    Raises:
        ValueError: If it is not a whole number of at least ``least``.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f'{name}: steps must be a whole number of at least {least}, got {steps!r}')
    return steps
