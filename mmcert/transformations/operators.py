"""Linear maps of images that the transformations are made of.

One border rule for all of them: an image continues by reflection about its outer pixels' edges
(... b a | a b c ... y z | z y ...), the rule under which the Gaussian blur is exactly additive and
kernels that are symmetric in x and in y keep an image's mean.

Positions are (x, y) in pixels from the image's centre, x to the right and y downwards, float64.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch.autograd.forward_ad import unpack_dual

NEAR = 1e-6
"""How near, in pixels, to the line between two pixels a place counts as either's."""


def reflect(indices: torch.Tensor, size: int | torch.Tensor) -> torch.Tensor:
    """The pixels in [0, size) that pixels of an axis continued by reflection are copies of."""
    indices = indices % (2 * size)
    return torch.minimum(indices, 2 * size - 1 - indices)


def convolve(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Filters images (B, C, H, W) with a kernel each, (B, h, w); the border is reflected.

    h and w are odd, and kernels the same under a half turn: convolution and correlation agree.
    """
    batch, channels = images.shape[:2]
    padded = extended(images, kernels.shape[1] // 2, kernels.shape[2] // 2)
    padded = padded.reshape(1, batch * channels, *padded.shape[2:])
    weights = kernels.to(images.dtype).repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weights, groups=batch * channels).reshape(images.shape)


def extended(images: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Images (B, C, H, W) continued by reflection, by some rows and columns on each side."""
    for axis, more in ((2, rows), (3, columns)):
        size = images.shape[axis]
        index = torch.arange(-more, size + more, device=images.device)
        images = images.index_select(axis, reflect(index, size))
    return images


def pixel_grid(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Positions of the pixels, shape (H, W, 2)."""
    y = torch.arange(height, dtype=torch.float64, device=device) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)


def read_bilinear(images: torch.Tensor, positions: torch.Tensor, padding: str) -> torch.Tensor:
    """Images (B, C, H, W) at positions (B, H', W', 2), by bilinear interpolation.

    Differentiable in the positions, backwards and forwards. ``padding`` says what lies outside:
    'reflection' (about the outer pixels' edges), 'zeros' or 'cyclic'.
    """
    height, width = images.shape[-2:]
    extent = positions.new_tensor([width, height])
    if unpack_dual(positions).tangent is not None:
        # torch's own operator has no forward derivative.
        return _read_by_corners(images, positions + (extent - 1) / 2, padding)
    if padding == 'cyclic':
        wrapped = torch.remainder(positions + (extent - 1) / 2, extent)
        images, padding = F.pad(images, (0, 1, 0, 1), mode='circular'), 'border'
        grid = (2 * wrapped + 1) / (extent + 1) - 1
    else:
        grid = 2 * positions / extent
    return F.grid_sample(
        images, grid.to(images.dtype), mode='bilinear', padding_mode=padding, align_corners=False
    )


def _read_by_corners(images: torch.Tensor, places: torch.Tensor, padding: str) -> torch.Tensor:
    """The same as ``read_bilinear`` for places (x, y) counted from the first pixel."""
    places = places.to(images.dtype)
    corners = places.floor()
    # Shape (B, 1, H', W', 2): weights of the next pixels of both axes.
    after = (places - corners)[:, None]
    total = images.new_zeros(())
    for step in product((0, 1), repeat=2):
        pixels = corners.long() + torch.tensor(step, device=places.device)
        x, y = (after[..., axis] if on else 1 - after[..., axis] for axis, on in enumerate(step))
        total = total + x * y * _read_pixels(images, pixels, padding)
    return total


class Interpolant:
    """The bilinear interpolant I of images, continued by reflection, by its slopes.

    In the square cell between four pixels it is a bilinear polynomial: dI/dx does not depend on x
    and is affine in y, and the other way round.

    Args:
        images (torch.Tensor): Shape (B, C, H, W).
        farthest (float): How far from the image's centre it is read, along either axis.
    """

    def __init__(self, images: torch.Tensor, farthest: float) -> None:
        height, width = images.shape[-2:]
        rows, columns = (
            max(math.ceil(farthest - (size - 1) / 2), 0) + 1 for size in (height, width)
        )
        padded = extended(images, rows, columns)
        x, y = padded.diff(dim=-1), padded.diff(dim=-2)
        # dI/dx at each cell's upper edge, dI/dy at its left edge, and d2I/dxdy.
        slopes = torch.stack([x[..., :-1, :], y[..., :-1], x.diff(dim=-2)])
        self._shape, self._columns = images.shape[:2], slopes.shape[-1]
        self._slopes = slopes.flatten(3).flatten(0, 2).mT.contiguous()
        # Where the upper left pixel of the first cell lies.
        self._origin = -padded.new_tensor([[width - 1], [height - 1]]) / 2
        self._origin -= padded.new_tensor([[columns], [rows]])

    def derivative_ranges(
        self, low: torch.Tensor, high: torch.Tensor, slow: torch.Tensor, fast: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranges of d/du I(q(u)) while q is in a box, and dq/du in another.

        For each cell that the box of q meets, with g and v the gradient and dq/du at the middle of
        the part of the box in it, and dg and dv the most that they change, the derivative is no
        farther from v . g than |v| . dg + dv . (|g| + dg). The range is the smallest one about
        those of all cells. A cell that the box only touches does not count, as a path in the box
        can be there for some time only without moving in that direction.

        All four are (..., 2): least and largest (x, y) of q from the centre, at most 1 apart, and
        of dq/du. The result, (B, C, ...), is least and largest derivative.
        """
        shape = (*self._shape, *low.shape[:-1])
        low, high, slow, fast = (e.flatten(0, -2).mT.contiguous() for e in (low, high, slow, fast))
        low, high = low - self._origin, high - self._origin
        middle, change = (slow + fast) / 2, (fast - slow) / 2
        first = low.floor()
        right, down = high.ceil() - 1 > first
        least, largest = self._in_cells(first, low, high, middle, change)
        for step, met in (((1, 0), right), ((0, 1), down), ((1, 1), right & down)):
            at = met.nonzero()[:, 0]
            cell, *some = (e.index_select(1, at) for e in (first, low, high, middle, change))
            lower, higher = self._in_cells(cell + cell.new_tensor(step)[:, None], *some)
            for ends, more, pick in (
                (least, lower, torch.minimum),
                (largest, higher, torch.maximum),
            ):
                ends.index_copy_(1, at, pick(ends.index_select(1, at), more))
        return least.reshape(shape), largest.reshape(shape)

    def _in_cells(
        self,
        cell: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        middle: torch.Tensor,
        change: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranges (B * C, N) over the parts of boxes in one cell each; all others are (2, N).

        dq/du is no farther than ``change`` from ``middle``, along either axis.
        """
        bottom, top = torch.maximum(low, cell), torch.minimum(high, cell + 1)
        part, reach = (bottom + top) / 2 - cell, (top - bottom) / 2
        index = (cell[1] * self._columns + cell[0]).long()
        x, y, twist = self._slopes.index_select(0, index).mT.contiguous().unflatten(0, (3, -1))
        # In place, as most of the time goes into memory.
        x.addcmul_(part[1], twist)
        y.addcmul_(part[0], twist)
        centre = (middle[0] * x).addcmul_(middle[1], y)
        most = middle.abs().add_(change)
        radius = twist.abs_().mul_(most[0] * reach[1] + most[1] * reach[0])
        radius.addcmul_(change[0], x.abs_()).addcmul_(change[1], y.abs_())
        return centre - radius, centre.add_(radius)


def read_nearest(
    label_map: torch.Tensor, positions: torch.Tensor, missing: int, cyclic: bool = False
) -> torch.Tensor:
    """Label maps (B, H, W) at positions (B, H', W', 2), from the nearest pixel.

    Positions outside the frame, beyond the pixels' edges, have the label ``missing``. With
    ``cyclic``, opposite edges of the frame meet, and nothing is outside.
    """
    extent = positions.new_tensor([label_map.shape[2], label_map.shape[1]])
    # Nearest, and a position half-way (up to rounding) goes right and down.
    pixels = torch.floor(positions + extent / 2 + 1e-9).long()
    return _read_labels(label_map, pixels, missing, cyclic)


def read_agreed(
    label_map: torch.Tensor,
    positions: torch.Tensor,
    reach: float,
    disc: bool,
    missing: int,
    cyclic: bool = False,
) -> torch.Tensor:
    """What label maps say at all pixels that a place near a given position may be nearest to.

    The place lies at most ``reach``, less than 1 pixel, from the position: in any direction if
    ``disc``, else along either axis. The result is the label of all these pixels, or ``missing``
    if they differ or one lies outside the frame. Shapes and ``cyclic`` as for ``read_nearest``.
    """
    extent = positions.new_tensor([label_map.shape[2], label_map.shape[1]])
    # In pixels from the corner of the frame: the pixel p covers [p, p + 1].
    places = positions + extent / 2
    nearest = torch.floor(places)
    # How far the pixels to either side of the nearest one are, along each axis.
    apart = {-1: places - nearest, 0: torch.zeros_like(places), 1: nearest + 1 - places}
    nearest = nearest.long()
    found = _read_labels(label_map, nearest, missing, cyclic)
    agreed = torch.ones_like(found, dtype=torch.bool)
    for right, down in product(apart, repeat=2):
        x, y = apart[right][..., 0], apart[down][..., 1]
        far = torch.hypot(x, y) if disc else torch.maximum(x, y)
        pixels = nearest + torch.tensor([right, down], device=nearest.device)
        same = _read_labels(label_map, pixels, missing, cyclic) == found
        agreed &= same | (far > reach + NEAR)
    return torch.where(agreed, found, missing)


def _read_labels(
    label_map: torch.Tensor, pixels: torch.Tensor, missing: int, cyclic: bool
) -> torch.Tensor:
    """Label maps (B, H, W) at pixels (x, y), shape (B, H', W', 2)."""
    padding = 'cyclic' if cyclic else 'zeros'
    return _read_pixels(label_map[:, None], pixels, padding, missing)[:, 0]


def _read_pixels(
    values: torch.Tensor, pixels: torch.Tensor, padding: str, missing: int = 0
) -> torch.Tensor:
    """Images (B, C, H, W), continued beyond their border, at pixels (x, y), (B, H', W', 2).

    ``missing`` is the value outside for the padding 'zeros'.
    """
    sizes = pixels.new_tensor([values.shape[-1], values.shape[-2]])
    inside = ((pixels >= 0) & (pixels < sizes)).all(dim=-1)[:, None]
    x, y = (reflect(pixels, sizes) if padding == 'reflection' else pixels % sizes).unbind(-1)
    index = (y * sizes[0] + x).flatten(1)[:, None].expand(-1, values.shape[1], -1)
    found = values.flatten(2).gather(2, index).unflatten(2, pixels.shape[1:3])
    return torch.where(inside, found, missing) if padding == 'zeros' else found
