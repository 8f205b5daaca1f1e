"""Procedurally drawn street scenes: pictures with labels that need no download.

Synthetic: results on them show that the machinery works, and say nothing about real images.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.files import atomic_folder

CLASSES = {
    'sky': [70, 130, 180],
    'building': [90, 90, 90],
    'road': [128, 64, 128],
    'sidewalk': [244, 35, 232],
    'tree': [107, 142, 35],
    'car': [0, 0, 142],
    'person': [220, 20, 60],
    'sign': [220, 220, 0],
}
"""Classes, in the order of their indices, with their colours."""
SKY, BUILDING, ROAD, SIDEWALK, TREE, CAR, PERSON, SIGN = range(len(CLASSES))
UNLABELLED = 255

SPLITS = {'train': 0, 'val': 1, 'test': 2}
"""The splits, and the first number of their images' seeds."""


def draw_scene(
    height: int, width: int, seed: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draws one street scene and its label map.

    Args:
        height (int): Height in pixels, at least 32.
        width (int): Width in pixels, at least 32.
        seed (tuple[int, ...]): The same seed gives the same scene.

    Returns:
        tuple[np.ndarray, np.ndarray]: BGR image (H, W, 3), uint8, and classes (H, W), uint8, with
        255 for pixels on the edge between two classes, which have no label.

    >>> image, labels = draw_scene(32, 48, seed=(0, 1))
    >>> image.shape, labels.shape
    ((32, 48, 3), (32, 48))
    """
    scene = _Scene(height, width, np.random.default_rng(seed))
    scene.sky()
    scene.buildings()
    scene.ground()
    scene.trees()
    scene.signs()
    scene.cars()
    scene.people()
    return scene.finish()


class _Scene:
    """A canvas with its label map, painted from back to front."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        self.image = np.zeros((height, width, 3), dtype=np.float32)
        self.labels = np.zeros((height, width), dtype=np.uint8)
        self.horizon = int(height * rng.uniform(0.42, 0.55))
        self.vanishing = width * rng.uniform(0.35, 0.65)

    def paint(self, mask: NDArray[np.bool_], label: int, colour: Any, grain: float = 8) -> None:
        """Fills a mask with a colour that varies from pixel to pixel by ``grain``."""
        flat = np.broadcast_to(np.asarray(colour, dtype=np.float32), self.image.shape)[mask]
        self.image[mask] = flat + self.rng.normal(0, grain, (len(flat), 1))
        self.labels[mask] = label

    def polygon(self, points: Any) -> NDArray[np.bool_]:
        """Mask of a polygon with corners (x, y)."""
        mask = np.zeros((self.height, self.width), dtype=np.uint8)
        cv2.fillPoly(mask, [np.round(np.asarray(points)).astype(np.int32)], (1,))
        return mask.astype(bool)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float) -> NDArray[np.bool_]:
        """Mask of an upright ellipse."""
        rows, columns = np.ogrid[: self.height, : self.width]
        return ((columns - x) / radius_x) ** 2 + ((rows - y) / radius_y) ** 2 <= 1

    def box(self, left: float, top: float, right: float, bottom: float) -> NDArray[np.bool_]:
        """Mask of an upright rectangle."""
        return self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])

    def trapezoid(
        self, x: float, top: float, half_top: float, bottom: float, half_bottom: float
    ) -> NDArray[np.bool_]:
        """Mask of a trapezoid about a vertical line, by half of its widths."""
        upper = [(x - half_top, top), (x + half_top, top)]
        return self.polygon([*upper, (x + half_bottom, bottom), (x - half_bottom, bottom)])

    def places(
        self, counts: tuple[int, int], nearness: tuple[float, float]
    ) -> Iterator[tuple[float, float, float]]:
        """Places on the sidewalk: nearness, from 0 (horizon) to 1, and the point (x, y) there."""
        for _ in range(self.rng.integers(*counts)):
            near = self.rng.uniform(*nearness)
            side = self.rng.choice([-1, 1])
            away = side * self.width * (near * 0.5 + self.rng.uniform(0.08, 0.3))
            yield near, float(self.vanishing + away), self.depth(near)

    def depth(self, near: float) -> float:
        """The row of the ground at a nearness."""
        return self.horizon + near * (self.height - self.horizon)

    def sky(self) -> None:
        top = np.array([self.rng.uniform(190, 250), self.rng.uniform(150, 190), 120])
        shade = np.linspace(0, 1, self.height)[:, None, None]
        everywhere = np.ones((self.height, self.width), dtype=bool)
        self.paint(everywhere, SKY, top * (1 - shade) + 235 * shade, grain=3)

    def buildings(self) -> None:
        x = -self.rng.uniform(0, 20)
        while x < self.width:
            wide = self.width * self.rng.uniform(0.12, 0.3)
            # Streets open towards the vanishing point: lower houses there.
            distance = abs(x + wide / 2 - self.vanishing) / self.width
            tall = self.height * (0.12 + 0.5 * distance) * self.rng.uniform(0.7, 1.3)
            top, bottom = self.horizon - tall, self.horizon + 0.1 * self.height
            colour = self.rng.uniform((60, 70, 80), (120, 140, 190))
            self.paint(self.box(x, top, x + wide, bottom), BUILDING, colour)
            pane = colour * self.rng.uniform(0.4, 0.6)
            step = self.rng.uniform(7, 11)
            for window_y in np.arange(top + 4, self.horizon - 4, step):
                for window_x in np.arange(x + 3, x + wide - 4, step):
                    right, low = window_x + step * 0.45, window_y + step * 0.5
                    self.paint(self.box(window_x, window_y, right, low), BUILDING, pane)
            x += wide * self.rng.choice([1.0, 1.0, 1.35])

    def ground(self) -> None:
        below = np.zeros((self.height, self.width), dtype=bool)
        below[self.horizon :] = True
        tone = self.rng.uniform(150, 180)
        self.paint(below, SIDEWALK, (tone - 8, tone, tone + 8), grain=9)
        spread = self.width * self.rng.uniform(0.38, 0.55)
        road = self.trapezoid(self.vanishing, self.horizon, 4, self.height, spread)
        grey = self.rng.uniform(70, 100)
        self.paint(road, ROAD, (grey, grey, grey), grain=7)
        for far in np.arange(0.15, 1, 0.25):
            ends = self.depth(far), 3 * far, self.depth(far + 0.1), 3 * (far + 0.1)
            self.paint(self.trapezoid(self.vanishing, *ends), ROAD, (215, 225, 225), grain=5)

    def trees(self) -> None:
        for near, x, foot in self.places((1, 4), (0.05, 0.3)):
            size = self.height * (0.10 + 0.25 * near) * self.rng.uniform(0.8, 1.2)
            trunk = self.box(x - size * 0.1, foot - size * 1.2, x + size * 0.1, foot)
            self.paint(trunk, TREE, (40, 60, 80))
            green = self.rng.uniform((25, 80, 30), (60, 130, 80))
            for _ in range(8):
                dx, dy = self.rng.normal(0, size * 0.3, 2)
                radius = size * self.rng.uniform(0.3, 0.55)
                leaves = self.ellipse(x + dx, foot - size * 1.6 + dy, radius, radius)
                self.paint(leaves, TREE, green * self.rng.uniform(0.8, 1.2), grain=16)

    def signs(self) -> None:
        for near, x, foot in self.places((1, 3), (0.1, 0.5)):
            size = self.height * (0.07 + 0.07 * near)
            self.paint(self.box(x - 1.2, foot - size * 3, x + 1.2, foot), SIGN, (150, 150, 150))
            blue, red = (200, 90, 30), (40, 40, 210)
            plate = self.ellipse(x, foot - size * 3, size * 0.75, size * 0.75)
            self.paint(plate, SIGN, (235, 235, 235))
            core = self.ellipse(x, foot - size * 3, size * 0.55, size * 0.55)
            self.paint(core, SIGN, blue if self.rng.random() < 0.5 else red, grain=5)

    def cars(self) -> None:
        for near in sorted(self.rng.uniform(0.12, 0.6, self.rng.integers(1, 4))):
            foot = self.depth(near)
            half = self.width * (0.03 + 0.13 * near)
            x = self.vanishing + self.rng.choice([-1, 1]) * near * self.width * 0.27
            tall = half * self.rng.uniform(0.75, 0.95)
            colour = self.rng.uniform(20, 220, 3)
            body = self.box(x - half, foot - tall, x + half, foot - tall * 0.15)
            self.paint(body, CAR, colour, grain=5)
            roof = self.trapezoid(x, foot - tall * 1.6, half * 0.5, foot - tall, half * 0.75)
            self.paint(roof, CAR, colour * 0.9, grain=5)
            pane = half * 0.45
            glass = self.box(x - pane, foot - tall * 1.45, x + pane, foot - tall * 1.05)
            self.paint(glass, CAR, (90, 70, 50), grain=4)
            for side in (-0.65, 0.65):
                wheel = self.ellipse(x + side * half, foot - tall * 0.12, half * 0.2, half * 0.2)
                self.paint(wheel, CAR, (20, 20, 20), grain=4)

    def people(self) -> None:
        for near, x, foot in self.places((1, 5), (0.15, 0.7)):
            size = self.height * (0.10 + 0.20 * near)
            shirt, legs = self.rng.uniform(30, 230, 3), self.rng.uniform(20, 110, 3)
            torso = self.ellipse(x, foot - size * 0.6, size * 0.16, size * 0.26)
            self.paint(self.box(x - size * 0.12, foot - size * 0.42, x - 1, foot), PERSON, legs)
            self.paint(self.box(x + 1, foot - size * 0.42, x + size * 0.12, foot), PERSON, legs)
            self.paint(torso, PERSON, shirt)
            head = self.ellipse(x, foot - size * 0.92, size * 0.09, size * 0.11)
            self.paint(head, PERSON, (130, 160, 205), grain=4)

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Lights the scene, softens it as a lens does, and leaves class edges unlabelled."""
        left, right = self.rng.uniform(0.75, 1.2, 2).tolist()
        sun = np.linspace(left, right, self.width)[None, :, None]
        image = self.image * sun * self.rng.uniform(0.8, 1.1)
        blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.6)
        labels = self.labels
        edge = np.zeros(labels.shape, dtype=bool)
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[1:] |= labels[1:] != labels[:-1]
        return np.clip(blurred, 0, 255).astype(np.uint8), np.where(edge, UNLABELLED, labels)


def write_scenes(
    folder: str | os.PathLike[str],
    split: str,
    number: int,
    size: tuple[int, int],
    log: Callable[[str], None] | None = None,
) -> Path:
    """Draws scenes into a folder: PNG files in ``images``, and label maps in ``annotations``.

    What is there already is left as it is.

    Args:
        folder (str | os.PathLike): Each split, number and size has its own in it.
        split (str): 'train', 'val' or 'test'; their scenes differ.
        number (int): Number of scenes.
        size (tuple[int, int]): Height and width in pixels, at least 32 each.
        log (Callable | None): Gets a line if anything is drawn.

    Returns:
        Path: The folder of these scenes.

    Raises:
        ValueError: If the split is unknown or a size is out of range.
    """
    height, width = size
    if split not in SPLITS:
        raise ValueError(f'split must be one of {", ".join(SPLITS)}, got {split!r}')
    if number < 1 or min(height, width) < 32:
        raise ValueError(f'needs at least 1 image of at least 32 x 32, got {number} of {size}')
    made = Path(folder) / f'{split}-{number}-{height}x{width}'
    if not made.exists():
        if log is not None:
            log(f'drawing {number} {split} scenes into {made}')
        with atomic_folder(made) as temporary:
            for name in ('images', 'annotations'):
                (temporary / name).mkdir()
            for index in range(number):
                image, labels = draw_scene(height, width, (SPLITS[split], index))
                cv2.imwrite(str(temporary / 'images' / f'{index:04d}.png'), image)
                cv2.imwrite(str(temporary / 'annotations' / f'{index:04d}.png'), labels)
    return made
