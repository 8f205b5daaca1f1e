"""Linear maps of images that the transformations are made of.

One border rule for all of them: an image continues by reflection about its outer pixels' edges
(... b a | a b c ... y z | z y ...), the rule under which the Gaussian blur is exactly additive and
kernels that are symmetric in x and in y keep an image's mean.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch.autograd.forward_ad import unpack_dual

NEAR = 1e-6
"""How near, in pixels, to the line between two pixels a place counts as either's."""


def reflected_index(size: int, margin: int, device: torch.device) -> torch.Tensor:
    """Where the pixels of an axis that is continued by reflection come from.

    ``margin`` pixels are added on each side, maybe more than ``size``. The result has the shape
    (size + 2 * margin,) and holds integers in [0, size).
    """
    place = torch.arange(-margin, size + margin, device=device) % (2 * size)
    return torch.minimum(place, 2 * size - 1 - place)


def convolve(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Filters images (B, C, H, W) with a kernel each, (B, h, w); the border is reflected.

    h and w are odd, and the kernels the same under a half turn, so that convolution and correlation
    agree.
    """
    batch, channels, height, width = images.shape
    rows = reflected_index(height, kernels.shape[1] // 2, images.device)
    columns = reflected_index(width, kernels.shape[2] // 2, images.device)
    padded = images[:, :, rows][..., columns].reshape(1, batch * channels, len(rows), len(columns))
    weights = kernels.to(images.dtype).repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weights, groups=batch * channels).reshape(images.shape)


def apply_separable(
    images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Images (B, C, H, W) times matrices, (B, H, H) from above and (B, W, W) from the side."""
    left, right = rows.to(images.dtype)[:, None], columns.to(images.dtype)[:, None]
    return left @ images @ right.mT


def pixel_grid(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Positions of the pixels, (x, y) from the image's centre, shape (H, W, 2), float64.

    x grows to the right and y downwards, in pixels.
    """
    y = torch.arange(height, dtype=torch.float64, device=device) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)


def read_bilinear(images: torch.Tensor, positions: torch.Tensor, padding: str) -> torch.Tensor:
    """Images at given positions, by bilinear interpolation, differentiable in the positions.

    Args:
        images (torch.Tensor): Shape (B, C, H, W).
        positions (torch.Tensor): Shape (B, H', W', 2): (x, y) in pixels from the centre, float64.
        padding (str): What lies outside: 'reflection' (about the outer pixels' edges), 'zeros' or
            'cyclic'.

    Returns:
        torch.Tensor: Shape (B, C, H', W'), of the images' dtype.
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
    total: torch.Tensor | float = 0.0
    for right in (0, 1):
        for below in (0, 1):
            step = torch.tensor([right, below], device=places.device)
            found = _pixels(images, corners.long() + step, padding)
            weight_x, weight_y = (
                after[..., axis] if on else 1 - after[..., axis]
                for axis, on in enumerate((right, below))
            )
            total = total + weight_x * weight_y * found
    assert isinstance(total, torch.Tensor)
    return total


def _pixels(images: torch.Tensor, indices: torch.Tensor, padding: str) -> torch.Tensor:
    """Values of the pixels (x, y) of an image that continues beyond its border."""
    sizes = indices.new_tensor([images.shape[-1], images.shape[-2]])
    inside = ((indices >= 0) & (indices < sizes)).all(dim=-1)
    if padding == 'reflection':
        indices = indices % (2 * sizes)
        indices = torch.minimum(indices, 2 * sizes - 1 - indices)
    else:
        indices = indices % sizes
    flat = (indices[..., 1] * sizes[0] + indices[..., 0]).flatten(1)
    values = images.flatten(2).gather(2, flat[:, None].expand(-1, images.shape[1], -1))
    values = values.reshape(*images.shape[:2], *indices.shape[1:3])
    return values * inside[:, None] if padding == 'zeros' else values


def slope_ranges(
    images: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ranges of the slopes of an image in boxes, as ``read_bilinear`` interpolates it.

    The image is continued by reflection. Between four pixels, dI/dx does not depend on x and is
    affine in y, and the other way round, so it is extreme at the box's ends or at a row of pixels
    in between. Where I has a kink, both sides count; a side that the box only touches does not, as
    a path in the box can be there for some time only without moving in that direction.

    Args:
        images (torch.Tensor): Shape (B, C, H, W).
        low (torch.Tensor): Corners of boxes, shape (H', W', 2): least (x, y) in pixels from the
            centre, of the images' dtype.
        high (torch.Tensor): Largest (x, y), at most 1 above ``low``.

    Returns:
        list[tuple[torch.Tensor, torch.Tensor]]: Least and largest dI/dx, and the same of dI/dy,
        each of shape (B, C, H', W').
    """
    sizes = low.new_tensor([images.shape[-1], images.shape[-2]])
    low, high = low + (sizes - 1) / 2, high + (sizes - 1) / 2
    return [
        _slope_range(images, low, high),
        _slope_range(images.mT, low.flip(-1), high.flip(-1)),
    ]


def _slope_range(
    images: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Range of dI/dx in boxes whose corners are given in pixels from the first pixel's centre."""
    height, width = images.shape[-2:]
    column, row = low.floor().long().unbind(-1)
    columns = torch.stack([column, torch.maximum(high[..., 0].ceil().long() - 1, column)])
    rows = torch.stack([row, row + 1, row + 2])
    rows, left, right = (
        torch.minimum(place % (2 * size), 2 * size - 1 - place % (2 * size))
        for place, size in ((rows, height), (columns, width), (columns + 1, width))
    )
    flat = images.flatten(-2)
    # Rows (3), columns (2).
    slopes = (
        flat[..., rows[:, None] * width + right] - flat[..., rows[:, None] * width + left]
    ).unbind(2)
    first, last = low[..., 1] - row, high[..., 1] - row
    found = torch.stack(
        [
            slopes[0]
            + (slopes[1] - slopes[0]) * at.clamp(max=1)
            + (slopes[2] - slopes[1]) * (at - 1).clamp(min=0)
            for at in (first, last.clamp(max=1), last)
        ]
    )
    return found.amin(dim=(0, 3)), found.amax(dim=(0, 3))


def read_nearest(
    label_map: torch.Tensor, positions: torch.Tensor, ignore_index: int, cyclic: bool = False
) -> torch.Tensor:
    """Label maps (B, H, W) at positions (B, H', W', 2), in pixels from the centre: the nearest.

    Positions outside the frame, beyond the pixels' edges, have ``ignore_index``; with ``cyclic``,
    opposite edges meet and nothing is outside.
    """
    extent = positions.new_tensor([label_map.shape[2], label_map.shape[1]])
    # Nearest, and a position half-way (up to rounding) goes right and down.
    pixels = torch.floor(positions + extent / 2 + 1e-9).long()
    return _read_pixels(label_map, pixels, ignore_index, cyclic)


def read_agreed(
    label_map: torch.Tensor,
    positions: torch.Tensor,
    reach: float,
    disc: bool,
    missing: int,
    cyclic: bool = False,
) -> torch.Tensor:
    """What label maps say at all pixels that a place near a given one may be nearest to.

    Args:
        label_map (torch.Tensor): Shape (B, H, W).
        positions (torch.Tensor): Shape (B, H', W', 2): (x, y) in pixels from the centre, float64.
        reach (float): How far the place may lie from the given one, less than 1 pixel: in any
            direction if ``disc``, else along either axis.
        disc (bool): Whether the places fill a disc, and not a square.
        missing (int): Value where the labels differ, or a pixel lies outside the frame.
        cyclic (bool): Whether the frame's opposite edges meet, so that nothing is outside.

    Returns:
        torch.Tensor: Shape (B, H', W'), of the same dtype: the label that all these pixels have.
    """
    extent = positions.new_tensor([label_map.shape[2], label_map.shape[1]])
    # In pixels from the corner of the frame: the pixel p covers [p, p + 1].
    places = positions + extent / 2
    nearest = torch.floor(places)
    # How far the pixels to either side of the nearest one are, along each axis.
    apart = {-1: places - nearest, 0: torch.zeros_like(places), 1: nearest + 1 - places}
    nearest = nearest.long()
    found = _read_pixels(label_map, nearest, missing, cyclic)
    agreed = torch.ones_like(found, dtype=torch.bool)
    for right, down in product(apart, repeat=2):
        x, y = apart[right][..., 0], apart[down][..., 1]
        far = torch.hypot(x, y) if disc else torch.maximum(x, y)
        pixels = nearest + torch.tensor([right, down], device=nearest.device)
        same = _read_pixels(label_map, pixels, missing, cyclic) == found
        agreed &= same | (far > reach + NEAR)
    return torch.where(agreed, found, missing)


def _read_pixels(
    label_map: torch.Tensor, pixels: torch.Tensor, missing: int, cyclic: bool
) -> torch.Tensor:
    """Label maps (B, H, W) at some pixels (x, y), shape (B, H', W', 2)."""
    batch, height, width = label_map.shape
    x, y = pixels.unbind(-1)
    if cyclic:
        x, y = x % width, y % height
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    found = label_map.reshape(batch, -1).gather(1, index.reshape(batch, -1)).reshape(index.shape)
    return torch.where(inside, found, torch.full_like(found, missing))
