"""Blurs: each averages an image with copies of itself; labels stay in place."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F

from mmcert.transformations.base import Parameter, Transformation
from mmcert.transformations.cosine import blurred, dct, frequencies, power
from mmcert.transformations.geometry import move_bilinear, rotation_matrices, scaling_matrices
from mmcert.transformations.operators import convolve, pixel_grid, slope_ranges

REACH = 0.5
"""How far (in pixels, at most 1) positions move in the parts in which speeds are bounded."""


class GaussianFilter(Transformation):
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
    definition = 'DCT-II multiplier exp(-variance * w^2 / 2), reflected border, not clipped'
    severities = ((1,), (4,), (9,), (16,), (36,))

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Blurs each image; see the base class."""
        # There are no Fourier transforms below single precision.
        precise = images if images.dtype == torch.float64 else images.float()
        return blurred(dct(precise), parameters).to(images.dtype)

    def lipschitz(self, images: torch.Tensor, low: float, high: float) -> torch.Tensor:
        """Exact: the speed at the lower end.

        The coefficient c_w of frequency w, times exp(-a |w|^2 / 2), moves at the speed
        |c_w| |w|^2 / 2 exp(-a |w|^2 / 2), which falls in a; the speed of the image is the root of
        the sum of their squares (Parseval). Arguments, result and errors as in the base class.
        """
        first, _ = self.check_interval(low, high)
        energy = power(images.to(torch.float64))
        rows, columns = (frequencies(size, energy).square() / 2 for size in energy.shape[1:])
        rates = rows[:, None] + columns
        return ((rates * torch.exp(-first * rates)).square() * energy).sum(dim=(1, 2)).sqrt()


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

    def lipschitz(self, images: torch.Tensor, low: float, high: float) -> torch.Tensor:
        """Exact for the kernel 'disk'; the other one jumps.

        Between two radii at which some pixel's weight starts or stops to grow, all weights are
        affine in r, so the image is (M + r N) / (c + r s) with fixed images M, N and s >= 0. Its
        derivative (c N - s M) / (c + r s)^2 is a fixed image times a number that falls in r: the
        speed is largest at the left end of such a piece, and L is the largest of these speeds.
        They are computed by frequency: a kernel that is even in x and in y multiplies the
        coefficients of the DCT-II by sum_yx k(y, x) cos(v y) cos(w x). Arguments, result and
        errors as in the base class.
        """
        if self.kernel != 'disk':
            return super().lipschitz(images, low, high)
        first, last = self.check_interval(low, high)
        energy = power(images.to(torch.float64))
        half = math.ceil(last + 0.5)
        away = distances(half, images.device)
        offset = torch.arange(-half, half + 1, dtype=torch.float64, device=images.device)
        down, across = (
            torch.cos(frequencies(size, energy)[:, None] * offset) for size in energy.shape[1:]
        )
        ends = torch.cat([away.flatten() - 0.5, away.flatten() + 0.5, offset.new_tensor([last])])
        ends = torch.unique(ends[(ends > first) & (ends <= last)]).tolist()
        fastest = energy.new_zeros(len(images))
        for left, right in zip([first, *ends], ends, strict=False):
            weights = (left + 0.5 - away).clamp(0, 1)
            growth = (((left + right) / 2 - away).abs() < 0.5).to(torch.float64)
            change = (growth - weights * (growth.sum() / weights.sum())) / weights.sum()
            multiplier = down @ change @ across.mT
            fastest = torch.maximum(fastest, (multiplier.square() * energy).sum(dim=(1, 2)))
        return fastest.sqrt()

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
    definition = (
        'mean of {steps} bilinear shifts, the midpoints of equal parts of a centred line; '
        'reflected border'
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

    Attributes:
        speed_limit (float): No copy's positions move faster than this times their distance from the
            centre, per unit of the parameter.

    Raises:
        ValueError: If ``steps`` is below 2.
    """

    default_steps: ClassVar[int]
    speed_limit: ClassVar[float]

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

    @abstractmethod
    def path(
        self, grid: torch.Tensor, low: float, high: float, part: float
    ) -> tuple[torch.Tensor, ...]:
        """Ranges of where pixels' content comes from in one of the copies, and of its velocity.

        Args:
            grid (torch.Tensor): Positions of the pixels, shape (H, W, 2).
            low (float): Lower end of an interval of parameters.
            high (float): Upper end.
            part (float): Place of the copy, from 0 (first) to 1 (last).

        Returns:
            tuple[torch.Tensor, ...]: Least and largest position, least and largest velocity
            (pixels per unit of the parameter), each of shape (H, W, 2).
        """

    def lipschitz(self, images: torch.Tensor, low: float, high: float) -> torch.Tensor:
        """An upper bound, by interval arithmetic for each value of the image.

        A value is the mean over the copies of I(q(u)), I the bilinear interpolant, which is
        continuous, of each image continued without end. So it is absolutely continuous in u, and
        its derivative, the mean of dI/dx dx/du + dI/dy dy/du, lies almost everywhere in the range
        that follows from those of the four factors, signs kept: copies that move against each
        other cancel. The interval is cut into parts in which no position moves more than
        ``REACH``; in each, the l2 norm of the values' largest absolute derivatives bounds the
        speed, and L is the largest of them. The bound tends to the largest speed with smaller
        parts. Arguments, result and errors as in the base class.
        """
        first, last = self.check_interval(low, high)
        values = images.to(torch.float64)
        grid = pixel_grid(images.shape[-2], images.shape[-1], images.device)
        farthest = float(torch.linalg.vector_norm(grid, dim=-1).max())
        parts = max(math.ceil((last - first) * self.speed_limit * farthest / REACH), 1)
        ends = torch.linspace(first, last, parts + 1, dtype=torch.float64)
        fastest = values.new_zeros(len(images))
        for left, right in itertools.pairwise(ends.tolist()):
            least, largest = torch.zeros_like(values), torch.zeros_like(values)
            for step in range(self.steps):
                *box, slow, fast = self.path(grid, left, right, step / (self.steps - 1))
                for axis, (down, up) in enumerate(slope_ranges(values, box[0], box[1])):
                    v, w = slow[..., axis], fast[..., axis]
                    products = torch.stack([down * v, down * w, up * v, up * w])
                    least += products.amin(dim=0)
                    largest += products.amax(dim=0)
            speed = torch.linalg.vector_norm(torch.maximum(-least, largest), dim=(1, 2, 3))
            fastest = torch.maximum(fastest, speed / self.steps)
        return fastest


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
    speed_limit = math.pi / 180
    definition = (
        'mean of {steps} rotations about the centre by equally spaced angles from -angle to angle, '
        'bilinear, reflected border'
    )
    severities = ((1,), (2,), (3,), (5,), (8,))

    def backward_map(self, parameter: torch.Tensor, part: float) -> torch.Tensor:
        """The inverse rotation of a copy; see the base class."""
        return rotation_matrices(-parameter * (2 * part - 1))

    def path(
        self, grid: torch.Tensor, low: float, high: float, part: float
    ) -> tuple[torch.Tensor, ...]:
        """Boxes around arcs; see the base class.

        Between its ends, an arc of less than half a turn has an extreme coordinate only where the
        other one is 0. The velocity is a quarter turn of the position, times the turn's speed.
        """
        ends = self.backward_map(grid.new_tensor([low, high]), part)
        start, stop = torch.einsum('eij,hwj->ehwi', ends, grid)
        least, largest = torch.minimum(start, stop), torch.maximum(start, stop)
        radius = torch.linalg.vector_norm(grid, dim=-1, keepdim=True)
        crossed = (start * stop < 0).flip(-1)
        least = torch.where(crossed & (start + stop < 0), -radius, least)
        largest = torch.where(crossed & (start + stop > 0), radius, largest)
        speed = math.radians(1 - 2 * part)
        velocities = [
            torch.stack([speed * end[..., 1], -speed * end[..., 0]], dim=-1)
            for end in (least, largest)
        ]
        return least, largest, torch.minimum(*velocities), torch.maximum(*velocities)


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
    speed_limit = 1.0
    definition = (
        'mean of {steps} enlargements about the centre by equally spaced factors from 1 to factor, '
        'bilinear, reflected border'
    )
    severities = ((1.11,), (1.15,), (1.2,), (1.24,), (1.3,))

    def backward_map(self, parameter: torch.Tensor, part: float) -> torch.Tensor:
        """The inverse enlargement of a copy; see the base class."""
        return scaling_matrices(1 / (1 + (parameter - 1) * part))

    def path(
        self, grid: torch.Tensor, low: float, high: float, part: float
    ) -> tuple[torch.Tensor, ...]:
        """Segments towards the centre; see the base class.

        A copy of factor f = 1 + (u - 1) part reads v / f, which moves by -v part / f^2: both are
        monotone in u.
        """
        start, stop = 1 + (low - 1) * part, 1 + (high - 1) * part
        places = grid / start, grid / stop
        velocities = grid * (-part / start**2), grid * (-part / stop**2)
        return (
            torch.minimum(*places),
            torch.maximum(*places),
            torch.minimum(*velocities),
            torch.maximum(*velocities),
        )


def check_steps(name: str, steps: int, least: int) -> int:
    """A number of copies or parts, refused with a ValueError below ``least``."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f'{name}: steps must be a whole number of at least {least}, got {steps!r}')
    return steps
