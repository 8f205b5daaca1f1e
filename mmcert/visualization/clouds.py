"""Pictures of point clouds."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 360
BACKGROUND = 32
AZIMUTH, ELEVATION = 40.0, 25.0
"""Where the viewer stands, in degrees."""


def draw_cloud(
    points: NDArray[np.floating], colours: NDArray[np.uint8], up: int = 2, size: int = SIZE
) -> NDArray[np.uint8]:
    """Draws a cloud as discs, the nearest ones last, in parallel projection.

    Args:
        points (np.ndarray): Coordinates, shape (N, 3).
        colours (np.ndarray): RGB colour of each point, shape (N, 3), uint8.
        up (int): Axis that points up.
        size (int): Height and width of the picture.

    Returns:
        np.ndarray: RGB image, shape (size, size, 3), uint8.
    """
    azimuth, elevation = np.radians([AZIMUTH, ELEVATION])
    first, second = (axis for axis in ((up + 1) % 3, (up + 2) % 3))
    x, y, z = (points[:, axis].astype(np.float64) for axis in (first, second, up))
    across = np.cos(azimuth) * y - np.sin(azimuth) * x
    away = np.cos(azimuth) * x + np.sin(azimuth) * y
    height = np.cos(elevation) * z - np.sin(elevation) * away
    depth = np.cos(elevation) * away + np.sin(elevation) * z
    plane = np.stack([across, -height], axis=1)
    low, high = plane.min(axis=0), plane.max(axis=0)
    scale = 0.9 * size / max(float((high - low).max()), 1e-9)
    pixels = np.round((plane - (low + high) / 2) * scale + size / 2).astype(int)
    radius = max(2, round(0.28 * size / np.sqrt(len(points))))
    picture = np.full((size, size, 3), BACKGROUND, dtype=np.uint8)
    shade = np.interp(depth, [depth.min(), depth.max() + 1e-9], [0.6, 1.0])
    # White stays white, whatever its depth: it says "abstained".
    white = (colours == 255).all(axis=1)
    shaded = np.where(white[:, None], 255.0, colours * shade[:, None])
    for index in np.argsort(depth):
        place = int(pixels[index, 0]), int(pixels[index, 1])
        cv2.circle(picture, place, radius, shaded[index].tolist(), -1, cv2.LINE_AA)
    return picture
