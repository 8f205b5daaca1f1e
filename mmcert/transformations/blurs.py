"""Blurs: each averages an image with copies of itself; labels stay in place."""

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from mmcert.transformations.base import Parameter, Transformation, Values
from mmcert.transformations.cosine import blurred, dct, frequencies, power
from mmcert.transformations.geometry import (
    ordered,
    rotation_matrices,
    scaling_matrices,
    swept_boxes,
)
from mmcert.transformations.operators import (
    Interpolant,
    convolve,
    extended,
    pixel_grid,
    read_bilinear,
)

REACH = 0.5
"""How far (in pixels, at most 1) positions move in the parts in which speeds are bounded."""

STEP = 0.0625
"""How far (in pixels) a line's ends move in parts in which the speed in the middle is enough."""

ROUNDING = 1e-11
"""How far, in pixels, rounding may take the places of a line, such as one that is upright."""

CHUNK = 64
"""Pieces of a box that are looked at together."""


class GaussianFilter(Transformation):
    """Gaussian blur in its DCT form, by the kernel's variance.

    The image's DCT-II coefficient of frequencies (v, w) is multiplied by
    exp(-variance (v^2 + w^2) / 2): the continuous Gaussian on the reflected, band-limited image,
    exactly additive in the variance, as the direct certificate needs it. From a standard deviation
    of about 1.5 on it agrees with sampled kernels to 1e-5; for smaller ones it may overshoot [0, 1]
    at edges, and is not clipped. Severities: the corruption benchmark's standard deviations,
    1, 2, 3, 4, 6.
    """

    name = 'gaussian_blur'
    parameters = (Parameter('variance', 'px^2', 0, 2500, 0),)
    definition = 'DCT-II multiplier exp(-variance * w^2 / 2), reflected border, not clipped'
    severities = ((1,), (4,), (9,), (16,), (36,))

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Blurs each image."""
        if images.stride(0) == 0:
            # One image with many parameters.
            images = images[:1]
        # There are no Fourier transforms below single precision.
        precise = images if images.dtype == torch.float64 else images.float()
        return blurred(dct(precise), parameters).to(images.dtype)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Exact: the speed at the lower end.

        The coefficient c_w of frequency w, times exp(-a |w|^2 / 2), moves at the speed
        |c_w| |w|^2 / 2 exp(-a |w|^2 / 2), which falls in a. The speed of the image is the root of
        the sum of their squares (Parseval).
        """
        first = float(self.check_box(low, high)[0])
        energy = power(images.to(torch.float64))
        rows, columns = (frequencies(size, energy).square() / 2 for size in energy.shape[1:])
        rates = rows[:, None] + columns
        speeds = (rates * torch.exp(-first * rates)).square() * energy
        return speeds.sum(dim=(1, 2)).sqrt()[:, None]


class KernelBlur(Transformation):
    """A blur by a kernel that depends on the parameters alone; the border is reflected."""

    @abstractmethod
    def kernels(self, parameters: torch.Tensor) -> torch.Tensor:
        """Kernels (B, h, w), h and w odd, float64; each sums to 1 and is even (half turns)."""

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Filters each image with its kernel."""
        return convolve(images, self.kernels(parameters))


@dataclass(eq=False)
class DefocusBlur(KernelBlur):
    """Mean over a disk: a lens out of focus.

    ``kernel`` is one of two, for a radius r and d the distance from the centre:

    * 'disk' (default), continuous in r: weight clip(r + 1/2 - d, 0, 1), a disk whose edge falls
      linearly over one pixel. Radii up to 1/2 leave the image as it is.
    * 'benchmark', the corruption benchmark's, piecewise constant in r: the pixels with d <= r,
      softened by OpenCV's Gaussian of standard deviation 0.5 and 3 x 3 pixels (5 x 5 for r > 8),
      and for r <= 3 of 0.1, which is no softening. Radii below 1 leave the image as it is.

    Kernels sum to 1 (the benchmark's for radii 8 and 10 miss that by about 1 %), and the border is
    reflected about the pixels' edges (the benchmark: about their centres).
    Severities: the benchmark's radii, 3, 4, 6, 8, 10.
    """

    kernel: str = 'disk'

    name = 'defocus_blur'
    parameters = (Parameter('radius', 'px', 0, 50, 0),)
    definition = 'mean over a disk: {kernel}; reflected border'
    legal = {
        'kernel': {
            'disk': 'weights clip(radius + 1/2 - d, 0, 1) at distance d',
            'benchmark': 'pixels at distance <= radius, softened as in the corruption benchmark',
        }
    }
    severities = ((3,), (4,), (6,), (8,), (10,))

    def kernels(self, parameters: torch.Tensor) -> torch.Tensor:
        """The disks."""
        radius = parameters[:, 0]
        if self.kernel == 'benchmark':
            disks = [_benchmark_disk(r) for r in radius.tolist()]
            margins = [(max(map(len, disks)) - len(disk)) // 2 for disk in disks]
            padded = [F.pad(d, (m, m, m, m)) for d, m in zip(disks, margins, strict=True)]
            return torch.stack(padded).to(parameters.device)
        half = max(math.ceil(float(radius.detach().max()) + 0.5) - 1, 0)
        weights = (radius[:, None, None] + 0.5 - _distances(half, parameters.device)).clamp(0, 1)
        return weights / weights.sum(dim=(1, 2), keepdim=True)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Exact for the kernel 'disk'; the other one jumps.

        Between two radii at which some pixel's weight starts or stops to grow, all weights are
        affine in r, so the image is (M + r N) / (c + r s) with fixed images M, N and s >= 0. Its
        derivative (c N - s M) / (c + r s)^2 is a fixed image times a number that falls in r: the
        speed is largest at the left end of such a piece, and L is the largest of these speeds.
        They are computed by frequency: a kernel that is even in x and in y multiplies the
        coefficients of the DCT-II by sum_yx k(y, x) cos(v y) cos(w x).
        """
        if self.kernel != 'disk':
            return super().lipschitz(images, low, high)
        first, last = (float(end) for end in self.check_box(low, high))
        energy = power(images.to(torch.float64))
        half = math.ceil(last + 0.5)
        away = _distances(half, images.device)
        offset = _offsets(half, images.device)
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
        return fastest.sqrt()[:, None]


def _offsets(half: int, device: torch.device | None = None) -> torch.Tensor:
    """Whole numbers from -half to half, float64."""
    return torch.arange(-half, half + 1, dtype=torch.float64, device=device)


def _distances(half: int, device: torch.device | None = None) -> torch.Tensor:
    """Distances from the centre of a square of 2 * half + 1 pixels a side, float64."""
    offset = _offsets(half, device)
    return torch.hypot(offset[:, None], offset)


def _benchmark_disk(radius: float) -> torch.Tensor:
    """The corruption benchmark's defocus kernel, shape (k, k), k odd, float64.

    Hendrycks and Dietterich 2019, with their softening by radius: standard deviation 0.1 up to
    radius 3, and 0.5 above. As there, the disk of radius 8 fills its square to the edge, and the
    softening reflects there. Unlike theirs it is normalised; zeros around it are cut off.
    """
    half, taps = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    disk = (_distances(half) <= radius).to(torch.float64)
    gauss = torch.exp(-0.5 * (_offsets(taps) / (0.1 if radius <= 3 else 0.5)) ** 2)
    gauss = gauss / gauss.sum()
    padded = F.pad((disk / disk.sum())[None, None], (taps,) * 4, mode='reflect')
    soft = F.conv2d(padded, (gauss[:, None] * gauss)[None, None])[0, 0]
    used = int((soft[half] > 1e-12).sum()) // 2
    soft = soft[half - used : half + used + 1, half - used : half + used + 1]
    return soft / soft.sum()


@dataclass(eq=False)
class MotionBlur(KernelBlur):
    """Mean along a straight line through each pixel: the camera moves.

    The kernel is that of bilinear interpolation at the midpoints of ``steps`` equal parts of a
    centred line, so it is continuous in length and angle; the default keeps the parts below a
    pixel. Angle 0 is horizontal, positive angles turn
    anticlockwise as seen. The corruption benchmark weights one half of a line with a Gaussian, at a
    random angle; our severities are horizontal and have its standard deviations along the line:
    lengths 6.5, 10.6, 14, 15.3, 19.9.
    """

    steps: int = 128

    name = 'motion_blur'
    parameters = (
        Parameter('length', 'px', 0, 100, 0),
        Parameter('angle', 'degrees', -180, 180, 0),
    )
    definition = (
        'mean of {steps} bilinear shifts, the midpoints of equal parts of a centred line; '
        'reflected border'
    )
    legal = {'steps': 1}
    severities = ((6.5, 0), (10.6, 0), (14.0, 0), (15.3, 0), (19.9, 0))

    def kernels(self, parameters: torch.Tensor) -> torch.Tensor:
        """The lines."""
        length, angle = parameters[:, 0], torch.deg2rad(parameters[:, 1])
        part = torch.arange(self.steps, dtype=torch.float64, device=parameters.device)
        place = (part + 0.5) / self.steps - 0.5
        across = _hats((length * torch.cos(angle))[:, None] * place)
        down = _hats(-(length * torch.sin(angle))[:, None] * place)
        return torch.einsum('bky,bkx->byx', down, across) / self.steps

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Upper bounds, by the speeds in the middle of small pieces of the box.

        With I the bilinear interpolant of the image, continued by reflection, and t_k from -1/2 to
        1/2, a pixel v of the blurred image is the mean over k of I(v + o_k), o_k = t_k length e,
        e the line's direction. It is absolutely continuous in either parameter, and its derivative
        is at almost all of them the mean of grad I(v + o_k) . w_k, with w_k = do_k/du. The box is
        cut into pieces in which the line's ends move no more than ``STEP``
        with either. The speed in the
        middle of a piece is the norm of a convolution. Elsewhere in it, by the triangle inequality
        for the l2 norm over the image, it is greater by no more than the mean over k of

            |dw_k| N + |w_x| (m_x N_xx + |do_y| N_xy) + |w_y| (m_y N_yy + |do_x| N_xy),

        where dw_k and do_k are the most that w_k and o_k change, and m_x and m_y how many whole
        numbers the coordinates of o_k may pass. N bounds the norm of the gradients, N_xx, N_xy
        and N_yy those of the image's second differences, over all windows that the frame moved by
        whole pixels may be: within a cell between four pixels, dI/dx is constant along x and has
        the slope d2I/dxdy along y; from one cell to the next in x it jumps by a second difference.
        """
        first, last = self.check_box(low, high)
        (start, stop), (left, right) = torch.stack([first, last], dim=1).tolist()
        count = max(math.ceil((stop - start) / 2 / STEP), 1)
        lengths = torch.linspace(start, stop, count + 1, dtype=torch.float64)
        count = max(math.ceil(math.radians(right - left) * stop / 2 / STEP), 1)
        angles = torch.linspace(left, right, count + 1, dtype=torch.float64)
        # At quarter turns, all places along the line reach the edges of their cells.
        quarters = [a for a in (-90.0, 0.0, 90.0) if left < a < right]
        angles = torch.cat([angles, angles.new_tensor(quarters)]).unique()
        angles = angles if len(angles) > 1 else angles.expand(2)
        pieces = torch.tensor(
            [(*ends, *turns) for ends in itertools.pairwise(lengths.tolist())
             for turns in itertools.pairwise(angles.tolist())],
            dtype=torch.float64,
            device=images.device,
        )  # fmt: skip
        half = math.ceil(stop / 2) + 1
        padded = extended(images.to(torch.float64), half, half)
        norms = _difference_norms(padded, images.shape[-2], images.shape[-1])
        fastest = norms.new_zeros(len(images), 2)
        for some in pieces.split(CHUNK):
            kernels, excess = self._speeds(some, half)
            speeds = _filtered_norms(padded, kernels.flatten(0, 1)).unflatten(1, excess.shape[:2])
            speeds = speeds + torch.einsum('npj,bj->bnp', excess, norms)
            fastest = torch.maximum(fastest, speeds.amax(dim=1))
        # A side of no length needs no constant.
        return fastest * (first < last).to(fastest)

    def _speeds(self, pieces: torch.Tensor, half: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Derivatives of the kernel in the middle of pieces, and what they may miss elsewhere.

        ``pieces`` are least and largest length, and angle, (n, 4). The kernels are (n, 2, h, w), h
        = w = 2 half + 1; the excess, (n, 2, 4), are factors of ``_difference_norms``. The axis of 2
        is for length and angle.
        """
        start, stop, left, right = pieces.unbind(1)
        left, right, degree = torch.deg2rad(left), torch.deg2rad(right), math.pi / 180
        length, angle = (start + stop) / 2, (left + right) / 2
        shorter, turned = (stop - start) / 2, (right - left) / 2
        part = torch.arange(self.steps, dtype=torch.float64, device=pieces.device)
        place = (part + 0.5) / self.steps - 0.5
        cos, sin = torch.cos(angle), torch.sin(angle)
        # w = do/du over t, (n, 2, 1, axis), and how much it changes, (n, 2, 1).
        velocity = torch.stack([cos, -sin, -sin * length * degree, -cos * length * degree], dim=1)
        velocity = velocity.reshape(-1, 2, 1, 2)
        change = torch.stack([turned, (shorter + length * turned) * degree], dim=1)[..., None]
        weights, slopes, far, passed = [], [], [], []
        for middle, ends in (
            (cos, (torch.cos(left), torch.cos(right))),
            (-sin, (-torch.sin(left), -torch.sin(right))),
        ):
            # Between quarter turns, cos and sin are monotone.
            corners = torch.stack([way * end for way in (start, stop) for end in ends])
            corners = corners[..., None] * place
            least, largest = corners.amin(dim=0), corners.amax(dim=0)
            at = (length * middle)[:, None] * place
            weights.append(_hats(at, half))
            cell = at.floor()[..., None]
            tap = _offsets(half, at.device)
            slopes.append((tap == cell + 1).to(at) - (tap == cell).to(at))
            far.append(torch.maximum(largest - at, at - least)[:, None])
            inside = (largest - ROUNDING).ceil() - (least + ROUNDING).floor() - 1
            passed.append(inside.clamp(min=0)[:, None])
        along = torch.einsum('nky,nkx,k->nyx', weights[1], slopes[0], place)
        upright = torch.einsum('nky,nkx,k->nyx', slopes[1], weights[0], place)
        kernels = torch.einsum(
            'npi,niyx->npyx', velocity[:, :, 0], torch.stack([along, upright], 1)
        )
        x, y = velocity.abs().unbind(-1)
        excess = torch.stack(
            [change.expand(-1, -1, self.steps), x * passed[0], y * passed[1],
             x * far[1] + y * far[0]],
            dim=-1,
        )  # fmt: skip
        return kernels / self.steps, (excess * place.abs()[:, None]).mean(dim=2)


def _filtered_norms(padded: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Norms (B, n) of images (B, C, H, W) filtered with kernels (n, h, w).

    The images are padded by as many pixels as the kernels reach. Most weights are 0 in all kernels:
    those cost nothing.
    """
    height, width = (
        size - k + 1 for size, k in zip(padded.shape[2:], kernels.shape[1:], strict=True)
    )
    taps = (kernels != 0).any(dim=0).nonzero()
    if len(taps) == 0:
        return padded.new_zeros(len(padded), len(kernels))
    weights = kernels[:, taps[:, 0], taps[:, 1]]
    squares = [
        (weights @ torch.stack([plane[y : y + height, x : x + width] for y, x in taps]).flatten(1))
        .square()
        .sum(dim=1)
        for plane in padded.flatten(0, 1)
    ]
    return torch.stack(squares).unflatten(0, padded.shape[:2]).sum(dim=1).sqrt()


def _difference_norms(padded: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Largest norms of an image's gradients and differences over windows of height x width.

    Of the padded images (B, C, h, w), shape (B, 4): of the gradient, of the second differences
    along x and along y, and of the mixed ones.
    """
    x, y = padded.diff(dim=-1), padded.diff(dim=-2)
    found = []
    for differences in (x, y, x.diff(dim=-1), y.diff(dim=-2), x.diff(dim=-2)):
        squares = differences.square().sum(dim=1)
        for axis, size in ((1, height), (2, width)):
            total = F.pad(squares.mT if axis == 1 else squares, (1, 0)).cumsum(dim=-1)
            squares = total[..., size:] - total[..., :-size]
            squares = squares.mT if axis == 1 else squares
        found.append(squares.amax(dim=(1, 2)).clamp(min=0))
    return torch.stack([found[0] + found[1], *found[2:]], dim=1).sqrt()


def _hats(places: torch.Tensor, half: int | None = None) -> torch.Tensor:
    """Weights of linear interpolation at places (B, K), shape (B, K, 2 * half + 1)."""
    if half is None:
        half = math.ceil(float(places.detach().abs().max()) - 1e-9)
    return (1 - (places[..., None] - _offsets(half, places.device)).abs()).clamp(min=0)


@dataclass(eq=False)
class MeanOfMoves(Transformation):
    """A blur that averages copies of the image, each moved by a linear map about the centre.

    There are ``steps`` copies, at least 2, each known by its ``place``, from 0 (first) to 1 (last).
    Bilinear interpolation, the border reflected about the outer pixels' edges.

    Attributes:
        speed_limit (float): No copy's positions move faster than this times their distance from the
            centre, per unit of the parameter.
    """

    steps: int

    speed_limit: ClassVar[float]
    legal = {'steps': 2}

    @abstractmethod
    def backward_map(self, parameter: torch.Tensor, place: float) -> torch.Tensor:
        """Where the content of a copy's pixels comes from, (B, 2, 2), at parameters (B,)."""

    @abstractmethod
    def path(
        self, grid: torch.Tensor, low: float, high: float, place: float
    ) -> tuple[torch.Tensor, ...]:
        """Ranges of where the content of a copy's pixels comes from, and of its velocity.

        Least and largest position, least and largest velocity (pixels per unit of the parameter),
        each (H, W, 2), for pixels at ``grid`` (H, W, 2) and parameters in [low, high].
        """

    @property
    def _places(self) -> list[float]:
        return [step / (self.steps - 1) for step in range(self.steps)]

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Averages the copies of each image, in double precision."""
        grid = pixel_grid(images.shape[-2], images.shape[-1], images.device)
        values = images.to(torch.float64)
        total = torch.zeros_like(values)
        for place in self._places:
            backward = self.backward_map(parameters[:, 0], place)
            positions = torch.einsum('bij,hwj->bhwi', backward, grid)
            total = total + read_bilinear(values, positions, 'reflection')
        return (total / self.steps).to(images.dtype)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """An upper bound, by interval arithmetic for each value of the image.

        A value is the mean over the copies of I(q(u)), I the bilinear interpolant, which is
        continuous, of each image continued without end. So it is absolutely continuous in u, and
        its derivative, the mean of grad I . dq/du, lies almost everywhere in the mean of the ranges
        of the copies (``Interpolant``), signs kept: copies that move against each other cancel. The
        interval is cut into parts in which no position moves more than ``REACH``; in each, the l2
        norm of the values' largest absolute derivatives bounds the speed, and L is the largest of
        them. As the parts shrink, L tends to the largest speed.
        """
        first, last = (float(end) for end in self.check_box(low, high))
        grid = pixel_grid(images.shape[-2], images.shape[-1], images.device)
        farthest = float(torch.linalg.vector_norm(grid, dim=-1).max())
        interpolant = Interpolant(images.to(torch.float64), farthest)
        parts = max(math.ceil((last - first) * self.speed_limit * farthest / REACH), 1)
        ends = torch.linspace(first, last, parts + 1, dtype=torch.float64)
        fastest = grid.new_zeros(len(images))
        for left, right in itertools.pairwise(ends.tolist()):
            least, largest = (grid.new_zeros(images.shape) for _ in range(2))
            for place in self._places:
                path = self.path(grid, left, right, place)
                down, up = interpolant.derivative_ranges(*path)
                least += down
                largest += up
            speed = torch.linalg.vector_norm(torch.maximum(-least, largest), dim=(1, 2, 3))
            fastest = torch.maximum(fastest, speed / self.steps)
        return fastest[:, None]


@dataclass(eq=False)
class RotationalBlur(MeanOfMoves):
    """Mean over rotations about the centre, by equally spaced angles from -angle to angle.

    Severities (ours: the corruption benchmark has none): 1, 2, 3, 5, 8 degrees.
    """

    steps: int = 15

    name = 'rotational_blur'
    parameters = (Parameter('angle', 'degrees', 0, 90, 0),)
    definition = (
        'mean of {steps} rotations about the centre by equally spaced angles from -angle to angle, '
        'bilinear, reflected border'
    )
    speed_limit = math.pi / 180
    severities = ((1,), (2,), (3,), (5,), (8,))

    def backward_map(self, parameter: torch.Tensor, place: float) -> torch.Tensor:
        """The inverse rotation of a copy."""
        return rotation_matrices(-parameter * (2 * place - 1))

    def path(
        self, grid: torch.Tensor, low: float, high: float, place: float
    ) -> tuple[torch.Tensor, ...]:
        """Boxes about arcs; a velocity is the position turned by 90 degrees, times the speed."""
        ends = self.backward_map(grid.new_tensor([low, high]), place)
        start, stop = torch.einsum('eij,hwj->ehwi', ends, grid)
        box = swept_boxes(start, stop, torch.linalg.vector_norm(grid, dim=-1, keepdim=True))
        speed = math.radians(1 - 2 * place)
        return (*box, *ordered(*(end.flip(-1) * grid.new_tensor([speed, -speed]) for end in box)))


@dataclass(eq=False)
class ZoomBlur(MeanOfMoves):
    """Mean over enlargements about the centre, by equally spaced factors from 1 to ``factor``.

    The corruption benchmark uses 11 to 16 factors, by severity, counts the original twice and
    interpolates on OpenCV-like crops. Severities: the ends of its ranges, 1.11, 1.15, 1.2, 1.24,
    1.3.
    """

    steps: int = 16

    name = 'zoom_blur'
    parameters = (Parameter('factor', 'factor', 1, 4, 1),)
    definition = (
        'mean of {steps} enlargements about the centre by equally spaced factors from 1 to factor, '
        'bilinear, reflected border'
    )
    speed_limit = 1.0
    severities = ((1.11,), (1.15,), (1.2,), (1.24,), (1.3,))

    def backward_map(self, parameter: torch.Tensor, place: float) -> torch.Tensor:
        """The inverse enlargement of a copy."""
        return scaling_matrices(1 / (1 + (parameter - 1) * place))

    def path(
        self, grid: torch.Tensor, low: float, high: float, place: float
    ) -> tuple[torch.Tensor, ...]:
        """Segments towards the centre: v / f and its velocity -v place / f^2 are monotone in u.

        The factor of the copy is f = 1 + (u - 1) place.
        """
        start, stop = 1 + (low - 1) * place, 1 + (high - 1) * place
        velocities = grid * (-place / start**2), grid * (-place / stop**2)
        return (*ordered(grid / start, grid / stop), *ordered(*velocities))
