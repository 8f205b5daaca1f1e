"""Geometric transformations: labels move with the content."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch

from mmcert.transformations.base import (
    IGNORE_INDEX,
    Parameter,
    Transformation,
    Values,
    check_labels,
)
from mmcert.transformations.operators import pixel_grid, read_bilinear, read_nearest


def rotation_matrices(degrees: torch.Tensor) -> torch.Tensor:
    """Rotations anticlockwise as seen in the picture, for x to the right and y downwards.

    Args:
        degrees (torch.Tensor): Shape (B,).

    Returns:
        torch.Tensor: Shape (B, 2, 2).
    """
    cos, sin = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    return torch.stack([cos, sin, -sin, cos], dim=-1).reshape(-1, 2, 2)


def scaling_matrices(factor: torch.Tensor) -> torch.Tensor:
    """Scalings about the centre.

    Args:
        factor (torch.Tensor): Shape (B,).

    Returns:
        torch.Tensor: Shape (B, 2, 2).
    """
    return factor[:, None, None] * torch.eye(2, dtype=factor.dtype, device=factor.device)


def move_bilinear(
    images: torch.Tensor, backward: torch.Tensor, padding: str = 'reflection'
) -> torch.Tensor:
    """Images moved by a linear map about their centre, read by bilinear interpolation.

    Args:
        images (torch.Tensor): Shape (B, C, H, W).
        backward (torch.Tensor): Shape (B, 2, 2): where a pixel's content comes from.
        padding (str): What lies outside, as for ``read_bilinear``.

    Returns:
        torch.Tensor: Shape (B, C, H, W).
    """
    grid = pixel_grid(images.shape[-2], images.shape[-1], images.device)
    return read_bilinear(images, torch.einsum('bij,hwj->bhwi', backward, grid), padding)


class Geometric(Transformation):
    """Moves an image's content by an affine map v -> A v + t about the image's centre.

    The frame keeps its size. Each pixel reads the image at the place from where its content comes,
    by bilinear interpolation. What comes from outside the frame is filled by the padding, and has
    no label.

    Args:
        padding (str): 'reflection' (about the outer pixels' edges) or 'zeros'.

    Raises:
        ValueError: If the padding is not known.
    """

    frame: ClassVar[Literal['output', 'content']] = 'content'
    paddings: ClassVar[tuple[str, ...]] = ('reflection', 'zeros')

    def __init__(self, padding: str = 'reflection') -> None:
        if padding not in self.paddings:
            known = ', '.join(self.paddings)
            raise ValueError(f'{self.name}: padding must be one of {known}, got {padding!r}')
        self.padding = padding

    @abstractmethod
    def affine(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the content.

        Args:
            parameters (torch.Tensor): Shape (B, P), float64.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: A of shape (B, 2, 2) and t of shape (B, 2), for
            positions (x, y) in pixels from the centre, y downwards.
        """

    def moved(self, parameters: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Where the content of each pixel goes.

        Args:
            parameters (torch.Tensor): Shape (B, P), float64.
            height (int): Rows.
            width (int): Columns.

        Returns:
            torch.Tensor: Shape (B, H, W, 2): (x, y) in pixels from the centre.
        """
        matrix, shift = self.affine(parameters)
        grid = pixel_grid(height, width, parameters.device)
        return torch.einsum('bij,hwj->bhwi', matrix, grid) + shift[:, None, None]

    def origins(self, parameters: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Where the content of each pixel comes from; arguments and result as for ``moved``."""
        matrix, shift = self.affine(parameters)
        grid = pixel_grid(height, width, parameters.device) - shift[:, None, None]
        return torch.einsum('bij,bhwj->bhwi', torch.linalg.inv(matrix), grid)

    def transform(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Moves the content of each image; see the base class."""
        height, width = images.shape[-2:]
        return read_bilinear(images, self.origins(parameters, height, width), self.padding)

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

        Args:
            label_map (torch.Tensor): Of the transformed images, shape (B, H, W), integers.
            parameters (torch.Tensor | Sequence | float): As for the images.
            ignore_index (int): Label for content that left the frame.

        Returns:
            torch.Tensor: Shape (B, H, W): the label at A v + t, from the nearest pixel.

        Raises:
            ValueError: If shapes do not fit or a parameter is out of its range.
        """
        check_labels(label_map)
        moved = self.moved(self.per_image(parameters, label_map), *label_map.shape[1:])
        return read_nearest(label_map, moved, ignore_index, self.padding == 'cyclic')

    def options(self) -> dict[str, Any]:
        """Arguments of the class."""
        return {'padding': self.padding}

    def operator(self) -> str:
        """The definition in words."""
        return f'about the centre, same frame, bilinear interpolation, padding: {self.padding}'


class Translation(Geometric):
    """Moves the content to the right by dx and down by dy pixels.

    With 'cyclic' padding, whole shifts are exactly additive, and the direct certificate of
    translations speaks of them; no content leaves the frame then. Severities (ours: the
    corruption benchmark has none): dx = dy = 2, 4, 8, 12, 20.

    Args:
        padding (str): 'reflection' (about the outer pixels' edges), 'zeros' or 'cyclic'.

    Raises:
        ValueError: If the padding is not known.
    """

    name = 'translation'
    parameters = (
        Parameter('dx', 'px', -10000, 10000, 0),
        Parameter('dy', 'px', -10000, 10000, 0),
    )
    paddings = ('reflection', 'zeros', 'cyclic')
    severities = tuple((d, d) for d in (2, 4, 8, 12, 20))

    def affine(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the content; see the base class."""
        return scaling_matrices(torch.ones_like(parameters[:, 0])), parameters


class Rotation(Geometric):
    """Rotates the content about the centre, anticlockwise as seen for positive angles.

    Severities (ours: the corruption benchmark has none): 2, 5, 10, 15, 25 degrees.

    Args:
        padding (str): 'reflection' (about the outer pixels' edges) or 'zeros'.

    Raises:
        ValueError: If the padding is not known.
    """

    name = 'rotation'
    parameters = (Parameter('angle', 'degrees', -360, 360, 0),)
    severities = ((2,), (5,), (10,), (15,), (25,))

    def affine(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the content; see the base class."""
        return rotation_matrices(parameters[:, 0]), torch.zeros_like(parameters).expand(-1, 2)


class Scaling(Geometric):
    """Scales the content about the centre; a factor above 1 enlarges it.

    Plain bilinear interpolation: reducing does not average first. Severities (ours: the
    corruption benchmark has none): 1.05, 1.1, 1.2, 1.35, 1.5.

    Args:
        padding (str): 'reflection' (about the outer pixels' edges) or 'zeros'.

    Raises:
        ValueError: If the padding is not known.
    """

    name = 'scaling'
    parameters = (Parameter('factor', 'factor', 0.1, 10, 1),)
    severities = ((1.05,), (1.1,), (1.2,), (1.35,), (1.5,))

    def affine(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map of the content; see the base class."""
        return scaling_matrices(parameters[:, 0]), torch.zeros_like(parameters).expand(-1, 2)
