"""Geometric transformations: labels move with the content."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import ClassVar

import torch
import torch.nn.functional as F

from mmcert.transformations.base import (
    IGNORE_INDEX,
    Parameter,
    Transformation,
    Values,
    check_labels,
)
from mmcert.transformations.operators import (
    NEAR,
    pixel_grid,
    read_agreed,
    read_bilinear,
    read_nearest,
    reflect,
)

PATH = 0.125
"""Longest way of a pixel, in pixels, over which its speed is bounded at once."""

QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
"""The velocity of a place that turns clockwise as seen, by 1 radian per unit of time."""


def rotation_matrices(degrees: torch.Tensor) -> torch.Tensor:
    """Rotations (B, 2, 2) by angles (B,), anticlockwise as seen, x to the right, y downwards."""
    cos, sin = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    return torch.stack([cos, sin, -sin, cos], dim=-1).reshape(-1, 2, 2)


def scaling_matrices(factor: torch.Tensor) -> torch.Tensor:
    """Scalings (B, 2, 2) by factors (B,)."""
    return factor[:, None, None] * torch.eye(2, dtype=factor.dtype, device=factor.device)


@dataclass(eq=False)
class Geometric(Transformation):
    """Moves an image's content by an affine map v -> A v + t about the image's centre.

    The frame keeps its size. Each pixel reads the image at the place from where its content comes,
    by bilinear interpolation. What comes from outside the frame is filled by the padding, and has
    no label. Images are computed in double precision, whatever their type: that is the operator
    that certificates speak of. Positions are (x, y) in pixels from the centre, y downwards.

    Args:
        padding (str): 'reflection' (about the outer pixels' edges) or 'zeros'.

    Attributes:
        turns (bool): Whether the map may turn the content.
    """

    padding: str = 'reflection'

    definition = (
        'about the centre, same frame, bilinear interpolation, computed in double precision, '
        'padding: {padding}'
    )
    legal = {'padding': {p: p for p in ('reflection', 'zeros')}}
    moves_labels = True
    turns: ClassVar[bool] = True

    @abstractmethod
    def affine(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the content: A of shape (B, 2, 2) and t of shape (B, 2)."""

    def moved(self, parameters: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Where the content of each pixel goes, shape (B, H, W, 2)."""
        matrix, shift = self.affine(parameters)
        grid = pixel_grid(height, width, parameters.device)
        return torch.einsum('bij,hwj->bhwi', matrix, grid) + shift[:, None, None]

    def origins(self, parameters: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Where the content of each pixel comes from, shape (B, H, W, 2)."""
        matrix, shift = self.affine(parameters)
        grid = pixel_grid(height, width, parameters.device) - shift[:, None, None]
        return torch.einsum('bij,bhwj->bhwi', torch.linalg.inv(matrix), grid)

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Moves the content of each image."""
        places = self.origins(parameters, *images.shape[-2:])
        return read_bilinear(images.double(), places, self.padding).to(images.dtype)

    def labels(
        self, label_map: torch.Tensor, parameters: Values, ignore_index: int = IGNORE_INDEX
    ) -> torch.Tensor:
        """Label maps of the transformed images, from the nearest pixel; see the base class."""
        check_labels(label_map)
        origins = self.origins(self.per_image(parameters, label_map), *label_map.shape[1:])
        return read_nearest(label_map, origins, ignore_index, self.padding == 'cyclic')

    def labels_of_content(
        self, label_map: torch.Tensor, parameters: Values, ignore_index: int = IGNORE_INDEX
    ) -> torch.Tensor:
        """What label maps of transformed images say of the content of each original pixel.

        That is the label at A v + t, from the nearest pixel, or ``ignore_index`` for content that
        left the frame. Arguments, shapes and errors are those of ``labels``.
        """
        check_labels(label_map)
        return self.read_content(label_map, self.per_image(parameters, label_map), ignore_index)

    def read_content(
        self, label_map: torch.Tensor, parameters: torch.Tensor, missing: int
    ) -> torch.Tensor:
        """What ``labels_of_content`` gives, for parameters (B, P) of any range."""
        moved = self.moved(parameters, *label_map.shape[1:])
        return read_nearest(label_map, moved, missing, self.padding == 'cyclic')

    def read_agreed_content(
        self, label_map: torch.Tensor, parameters: torch.Tensor, missing: int
    ) -> torch.Tensor:
        """What label maps say of content that some other move had brought to a whole pixel.

        Content at v, moved by xi, was read at the pixel w nearest to A_xi v, up to half a pixel
        away along either axis. If A_u A_xi = A_{u + xi}, the further move u takes w not to
        A_{u + xi} v but L_u e away from it, with |e_x|, |e_y| <= 1/2 and L_u the linear part of
        A_u. This reads the label at every pixel that such a place may be nearest to, for maps that
        keep lengths: of the square of e, or, if the map turns it, of the disc about that square.
        The parameters are u + xi, of any range. Where the labels at these pixels differ, or one is
        outside the frame, the result is ``missing``.
        """
        moved = self.moved(parameters, *label_map.shape[1:])
        reach = math.sqrt(0.5) if self.turns else 0.5
        return read_agreed(label_map, moved, reach, self.turns, missing, self.padding == 'cyclic')


class Shift(Geometric):
    """Moves the content to the right by dx and down by dy pixels.

    The padding may also be 'cyclic': whole shifts are then exactly additive, the direct certificate
    of translations speaks of them, and no content leaves the frame. Severities (ours: the
    corruption benchmark has none): dx = dy = 2, 4, 8, 12, 20.
    """

    name = 'translation'
    parameters = tuple(Parameter(axis, 'px', -10000, 10000, 0) for axis in ('dx', 'dy'))
    legal = {'padding': {p: p for p in ('reflection', 'zeros', 'cyclic')}}
    turns = False
    severities = tuple((d, d) for d in (2, 4, 8, 12, 20))

    def affine(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the content."""
        return scaling_matrices(torch.ones_like(parameters[:, 0])), parameters


class AboutCentre(Geometric):
    """A linear map of the content about the centre, v -> A_u v, by one or two parameters u.

    As the first parameter grows the content of a pixel runs along an arc about the centre or a ray
    from it, and so does the place A_u^{-1} v that a pixel reads. As the second one grows, both run
    along rays.
    """

    @abstractmethod
    def matrices(self, parameters: torch.Tensor) -> torch.Tensor:
        """The maps A of the content, shape (B, 2, 2), for parameters of shape (B, P), float64."""

    @abstractmethod
    def rates(self, low: torch.Tensor) -> torch.Tensor:
        """How fast the place q = A_u^{-1} v that a pixel reads moves for u >= low, (P,).

        dq/du_k is G_k q, G being the result, (P, 2, 2), float64, times a number in [-1, 1].
        """

    @abstractmethod
    def fastest(self, low: torch.Tensor, high: torch.Tensor) -> tuple[float, ...]:
        """Most pixels that A_u v and A_u^{-1} v move in a box, per unit of u_k and of |v|, (P,)."""

    def affine(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the content."""
        return self.matrices(parameters), torch.zeros_like(parameters[:, :1]).expand(-1, 2)

    def lipschitz(self, images: torch.Tensor, low: Values, high: Values) -> torch.Tensor:
        """Proven Lipschitz constants of the transformed image; see the base class.

        T_u x has at the pixel v the value I(q_v(u)), where q_v(u) = A_u^{-1} v and I is the
        bilinear interpolant of the image, continued by the padding over the whole plane: by
        reflection as the pixels are (so that it is constant within half a pixel beyond the outer
        pixels' centres), or by zeros (so that it falls to 0 over one pixel). I is continuous, and
        in the closed cell between four pixels it is a bilinear polynomial. So u -> I(q_v(u)) is
        absolutely continuous in each parameter, at almost every u_k with the derivative
        grad I(q) . dq/du_k of a cell that holds q, and ||T_a x - T_b x||_2, for a and b that differ
        in u_k alone, is at most the integral of ||d/du_k T_u x||_2 from a to b.

        The box of parameters is cut into pieces in which no q_v moves by more than ``PATH`` pixels
        (with either of two parameters, twice that). In a piece q_v runs through a box that is known
        exactly. For each cell that this box meets, |grad I . dq/du_k| is bounded over the part of
        the box in it: with g and w the gradient and dq/du_k at the part's middle, dg and dw the
        most that they change within it, by |w . g| + |w| . dg + dw . (|g| + dg), channel by
        channel. L_k is the root of the sum of squares over channels and pixels, at each pixel of
        the worst cell, in the worst piece.
        """
        first, last = self.check_box(low, high)
        path = PATH * len(self.parameters)
        edges = self._pieces(first, last, path, *images.shape[-2:])
        # At the identity all pixels reach the edges of their cells.
        assert self.identity is not None
        edges = [
            (torch.cat([ends, at[None]]).unique() if ends[0] < at < ends[-1] else ends).to(
                images.device
            )
            for ends, at in zip(edges, self.identity, strict=True)
        ]
        rates = self.rates(first).to(images.device)
        worst = rates.new_zeros(len(images), len(rates))
        for boxes in self._swept(self.origins, edges, *images.shape[-2:]):
            worst = torch.maximum(worst, _squared_speeds(images, boxes, rates, self.padding))
        # A side of no length needs no constant.
        return worst.sqrt() * (first < last).to(worst)

    def reached(self, low: Values, high: Values, height: int, width: int) -> torch.Tensor:
        """All pixels at which content may be found as the parameters run through [low, high].

        The result, (K, H, W), has for the content of each pixel the numbers y W + x of pixels, some
        repeated, and -1 for any outside the frame. The nearest pixel to A_u v is among them for all
        u in the box from low to high, either one where two are equally near.
        """
        path = 0.9 / len(self.parameters)
        edges = self._pieces(*self.check_box(low, high), path, height, width)
        extent, sets = torch.tensor([width, height]), []
        for swept in self._swept(self.moved, edges, height, width):
            boxes = [box + extent / 2 for box in swept]
            # No longer than a pixel, so that its corners lie in all pixels that it meets.
            corners = torch.floor(torch.stack([boxes[0] - NEAR, boxes[1] + NEAR])).long()
            for right, down in product((0, 1), repeat=2):
                pixel = torch.stack([corners[right, ..., 0], corners[down, ..., 1]], dim=-1)
                inside = ((pixel >= 0) & (pixel < extent)).all(dim=-1)
                sets.append(torch.where(inside, pixel[..., 1] * width + pixel[..., 0], -1))
        return torch.stack(sets)

    def _pieces(
        self, low: torch.Tensor, high: torch.Tensor, path: float, height: int, width: int
    ) -> list[torch.Tensor]:
        """Ends of parts of each side of a box.

        In a part, no pixel and no place that one reads moves farther than ``path`` pixels.
        """
        farthest = max(math.hypot(height - 1, width - 1) / 2, 1.0)
        edges = []
        for first, last, speed in zip(
            low.tolist(), high.tolist(), self.fastest(low, high), strict=True
        ):
            count = max(1, math.ceil((last - first) * speed * farthest / path))
            edges.append(torch.linspace(first, last, count + 1, dtype=torch.float64))
        return edges

    def _swept(
        self,
        places: Callable[[torch.Tensor, int, int], torch.Tensor],
        edges: Sequence[torch.Tensor],
        height: int,
        width: int,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Boxes that ``moved`` or ``origins`` of each pixel keep to, one pair for each piece.

        A pair is the lowest and highest (x, y), (H, W, 2). The pieces have the ``edges`` as sides.
        With the first parameter, a place runs along an arc or ray, in a box that is known exactly.
        With the second it runs along a ray: between two boxes, in the smallest box about both.
        """

        def along(others: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            rows = (torch.stack([u, *others])[None] for u in edges[0])
            return (swept_boxes(*e) for e in pairwise(places(r, height, width)[0] for r in rows))

        if len(edges) == 1:
            yield from along(())
            return
        for ends in pairwise(edges[1]):
            for (low, high), (lower, higher) in zip(*(along([v]) for v in ends), strict=True):
                yield torch.minimum(low, lower), torch.maximum(high, higher)


class Rotation(AboutCentre):
    """Rotates the content about the centre, anticlockwise as seen for positive angles.

    Severities (ours: the corruption benchmark has none): 2, 5, 10, 15, 25 degrees.

    Example:
        >>> images = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
        >>> Rotation()(images, 90.0).abs().round(decimals=3).tolist()
        [[[[1.0, 0.0], [0.0, 0.0]]]]
    """

    name = 'rotation'
    parameters = (Parameter('angle', 'degrees', -360, 360, 0),)
    severities = ((2,), (5,), (10,), (15,), (25,))

    def matrices(self, parameters: torch.Tensor) -> torch.Tensor:
        """Rotations."""
        return rotation_matrices(parameters[:, 0])

    def rates(self, low: torch.Tensor) -> torch.Tensor:
        """A quarter turn per radian."""
        return QUARTER_TURN[None] * (math.pi / 180)

    def fastest(self, low: torch.Tensor, high: torch.Tensor) -> tuple[float, ...]:
        """One pixel per radian."""
        return (math.pi / 180,)


class Scaling(AboutCentre):
    """Scales the content about the centre; a factor above 1 enlarges it.

    Plain bilinear interpolation: reducing does not average first. Severities (ours: the
    corruption benchmark has none): 1.05, 1.1, 1.2, 1.35, 1.5.
    """

    name = 'scaling'
    parameters = (Parameter('factor', 'factor', 0.1, 10, 1),)
    severities = ((1.05,), (1.1,), (1.2,), (1.35,), (1.5,))

    def matrices(self, parameters: torch.Tensor) -> torch.Tensor:
        """Scalings."""
        return scaling_matrices(parameters[:, 0])

    def rates(self, low: torch.Tensor) -> torch.Tensor:
        """Towards the centre: dq/du = -q / u."""
        return torch.eye(2, dtype=torch.float64)[None] / low[0]

    def fastest(self, low: torch.Tensor, high: torch.Tensor) -> tuple[float, ...]:
        """1 for the content, 1 / u^2 for the place that is read."""
        return (max(1.0, float(low[0]) ** -2),)


class RotationScaling(AboutCentre):
    """Rotates the content about the centre and scales it, in one interpolation.

    Equal to ``Rotation`` at factor 1, and to ``Scaling`` at angle 0. Severities (ours): theirs
    together.

    Example:
        >>> images = torch.rand(1, 3, 8, 8)
        >>> both = RotationScaling()(images, [10.0, 1.0])
        >>> torch.equal(both, Rotation()(images, 10.0))
        True
    """

    name = 'rotation_scaling'
    parameters = (*Rotation.parameters, *Scaling.parameters)
    severities = tuple(
        (*angle, *factor)
        for angle, factor in zip(Rotation.severities, Scaling.severities, strict=True)
    )

    def matrices(self, parameters: torch.Tensor) -> torch.Tensor:
        """Rotations, times the factor."""
        angle, factor = parameters.unbind(1)
        return factor[:, None, None] * rotation_matrices(angle)

    def rates(self, low: torch.Tensor) -> torch.Tensor:
        """As of a rotation, and of a scaling."""
        towards = torch.eye(2, dtype=torch.float64) / low[1]
        return torch.stack([QUARTER_TURN * (math.pi / 180), towards])

    def fastest(self, low: torch.Tensor, high: torch.Tensor) -> tuple[float, ...]:
        """The content lies u_2 |v| from the centre, the place that is read |v| / u_2."""
        smallest, largest = float(low[1]), float(high[1])
        return math.radians(max(largest, 1 / smallest)), max(1.0, smallest**-2)


def ordered(first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smaller and the larger of two values, elementwise."""
    return torch.minimum(first, last), torch.maximum(first, last)


def swept_boxes(
    first: torch.Tensor, last: torch.Tensor, radius: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest boxes about paths that are arcs about the centre, or pieces of rays from it.

    The ends of a path, both (..., 2), are (x, y) from the centre, less than half a turn apart;
    ``radius``, (..., 1), is their distance from it. The boxes are lowest and highest (x, y).
    """
    low, high = ordered(first, last)
    if radius is None:
        radius = torch.hypot(first[..., 0], first[..., 1])[..., None]
    # Between its ends, an arc has an extreme coordinate, its radius, only where the other one is
    # 0. A ray crosses no axis.
    crosses, side = (first * last < 0).flip(-1), first + last
    high = torch.where(crosses & (side > 0), torch.maximum(high, radius), high)
    return torch.where(crosses & (side < 0), torch.minimum(low, -radius), low), high


def _squared_speeds(
    images: torch.Tensor,
    boxes: tuple[torch.Tensor, torch.Tensor],
    rates: torch.Tensor,
    padding: str,
) -> torch.Tensor:
    """Bounds (B, P) of ||d/du_k T_u x||_2^2 while each pixel reads in a box; see ``lipschitz``.

    ``boxes`` are lowest and highest (x, y), (H, W, 2), at most a pixel apart; ``rates`` are G_k.
    """
    height, width = images.shape[-2:]
    # A ring of zeros stands for all that lies outside.
    values = F.pad(images.double(), (1, 1, 1, 1)).flatten(2)
    middle = rates.new_tensor([width - 1, height - 1]) / 2
    low, high = (box.reshape(-1, 2) + middle for box in boxes)
    first = low.floor()
    last = torch.maximum(high.ceil() - 1, first)
    worst = values.new_zeros(len(rates), len(images), len(low))
    for step in product((0, 1), repeat=2):
        cell = first + rates.new_tensor(step)
        met = (cell <= last).all(dim=1).nonzero()[:, 0]
        cell = cell[met]
        bottom, top = torch.maximum(low[met], cell), torch.minimum(high[met], cell + 1)
        centre, (rx, ry) = (bottom + top) / 2, ((top - bottom) / 2).unbind(1)
        s, t = (centre - cell).unbind(1)
        columns = _padded_index(cell[:, 0], width, padding)
        rows = _padded_index(cell[:, 1], height, padding)
        v00, v01, v10, v11 = (
            values[:, :, row * (width + 2) + column] for row, column in product(rows, columns)
        )
        twist = v11 - v10 - v01 + v00
        gx, gy, twist = v01 - v00 + t * twist, v10 - v00 + s * twist, twist.abs()
        most = gx.abs() + ry * twist, gy.abs() + rx * twist
        for rate, squares in zip(rates, worst, strict=True):
            (wx, wy), (ex, ey) = rate @ (centre - middle).mT, rate.abs() @ torch.stack([rx, ry])
            bound = (wx * gx + wy * gy).abs() + twist * (wx.abs() * ry + wy.abs() * rx)
            bound += ex * most[0] + ey * most[1]
            squares[:, met] = torch.maximum(squares[:, met], bound.square().sum(dim=1))
    return worst.sum(dim=2).mT


def _padded_index(cell: torch.Tensor, size: int, padding: str) -> list[torch.Tensor]:
    """Where a cell's two neighbours along an axis lie, behind a ring of one pixel of zeros."""
    pair = [cell.long(), cell.long() + 1]
    return [(p.clamp(-1, size) if padding == 'zeros' else reflect(p, size)) + 1 for p in pair]
