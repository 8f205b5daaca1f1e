"""Maps of confidence as files: arrays, and pictures with scales and a legend."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.files import atomic_writer
from mmcert.report.pictures import (
    ABSTAIN_COLOR,
    BACKGROUND,
    SCALE_HEIGHT,
    Color,
    arranged,
    draw_cloud,
    heat_map,
    least_width,
    paint,
    scale_bar,
    titled,
    with_legend,
)
from mmcert.votes.confidence import NO_RUNNER_UP

LARGEST = 1024
"""Larger maps are drawn with every second pixel, or fewer; their arrays have all."""

NOTHING = 'no bound, no radius, no other class'
"""What is white in the picture."""


def confidence_picture(
    maps: Mapping[str, NDArray[Any]],
    palette: Sequence[Color],
    classes: Sequence[str] = (),
    *,
    points: NDArray[np.floating] | None = None,
    up: int = 2,
) -> NDArray[np.uint8]:
    """Draws maps of confidence side by side, each heat map above its scale, and a legend.

    >>> maps = {'guess': np.zeros((60, 80), int), 'vote_share': np.full((60, 80), 0.9)}
    >>> picture = confidence_picture(maps, [(128, 64, 128), (0, 0, 142)], ['road', 'car'])
    >>> picture.shape[0], picture.dtype  # Titles are as wide as the font of OpenCV makes them.
    (134, dtype('uint8'))

    Args:
        maps (Mapping): As from ``mmcert.votes.confidence.confidence_maps``, shape (H, W), or (N,)
            for a cloud.
        palette (Sequence): Colour of each class.
        classes (Sequence[str]): Names of the classes, for the legend; none draws none.
        points (np.ndarray | None): Of a cloud: its points, shape (N, D), coordinates first.
        up (int): Axis of a cloud that points up.

    Returns:
        np.ndarray: RGB picture, uint8.
    """
    is_cloud = maps['guess'].ndim == 1
    if not is_cloud:
        step = -(-max(maps['guess'].shape) // LARGEST)
        maps = {name: values[::step, ::step] for name, values in maps.items()}
    if is_cloud and points is None:
        raise ValueError('maps of a cloud are drawn at its points: give them as well')

    def panel(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not is_cloud or points is None:
            return colours
        return draw_cloud(points[:, :3], colours, up, ABSTAIN_COLOR)

    panels: dict[str, tuple[NDArray[np.uint8], float | None]] = {}
    tested = 'lower_bound' in maps
    panels['smoothed model' if tested else 'class'] = panel(paint(maps['guess'], palette)), None
    for name, heading in _headings(tested).items():
        if name in maps:
            largest = float(maps[name].max(initial=0.0)) if name == 'radius' else 1.0
            zero = None if name == 'vote_share' else ABSTAIN_COLOR
            panels[heading] = panel(heat_map(maps[name], zero, largest)), largest
    if 'runner_up' in maps:
        panels['runner-up (estimate)'] = panel(_runner_up(maps, palette)), None
    width = least_width(panels)
    drawn = [
        titled(heading, _above_scale(colours, largest, width), width)
        for heading, (colours, largest) in panels.items()
    ]
    return with_legend(arranged(drawn), _entries(maps, palette, classes) if classes else {})


def _headings(tested: bool) -> dict[str, str]:
    return {
        'vote_share': 'vote share (estimate)' if tested else 'share of parameters that keep it',
        'lower_bound': 'lower confidence bound',
        'radius': 'joint radius',
    }


def _runner_up(maps: Mapping[str, NDArray[Any]], palette: Sequence[Color]) -> NDArray[np.uint8]:
    colours = paint(maps['runner_up'], palette)
    colours[maps['runner_up'] == NO_RUNNER_UP] = ABSTAIN_COLOR
    return colours


def _above_scale(
    colours: NDArray[np.uint8], largest: float | None, width: int
) -> NDArray[np.uint8]:
    """A panel above its scale, or above as much nothing where it has none."""
    width = max(width, colours.shape[1])
    right = ((0, 0), (0, width - colours.shape[1]), (0, 0))
    colours = np.pad(colours, right, constant_values=BACKGROUND)
    blank = np.full((SCALE_HEIGHT, width, 3), BACKGROUND, dtype=np.uint8)
    return np.concatenate([colours, blank if largest is None else scale_bar(width, largest)])


def _entries(
    maps: Mapping[str, NDArray[Any]], palette: Sequence[Color], classes: Sequence[str]
) -> dict[str, Color]:
    """The legend: classes that occur, and what white means."""
    shown = [maps[name] for name in ('guess', 'runner_up') if name in maps]
    found = {
        name: palette[index]
        for index, name in enumerate(classes)
        if any((one == index).any() for one in shown)
    }
    proven = [maps[name] for name in ('lower_bound', 'radius') if name in maps]
    if any((one <= 0).any() for one in proven) or (shown[-1] == NO_RUNNER_UP).any():
        found[NOTHING] = ABSTAIN_COLOR
    return found


def write_confidence(
    folder: Path,
    name: str,
    maps: Mapping[str, NDArray[Any]],
    picture: NDArray[np.uint8] | None = None,
) -> None:
    """Writes the maps of an input as ``NAME.npz``, and an RGB picture of them as ``NAME.png``.

    Args:
        folder (Path): Where the files go; made if missing.
        name (str): Their name, without an ending; that of the votes.
        maps (Mapping): The maps.
        picture (np.ndarray | None): As from ``confidence_picture``; None writes none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        atomic_writer(folder / f'{name}.npz') as stream,
        # Like np.savez_compressed, but several times as fast: the maps compress well anyway.
        zipfile.ZipFile(stream, 'w') as archive,
    ):
        for key, values in maps.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(values))
            entry = zipfile.ZipInfo(f'{key}.npy')
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
    if picture is not None:
        pixels = np.ascontiguousarray(picture[..., ::-1])
        with atomic_writer(folder / f'{name}.png') as stream:
            stream.write(cv2.imencode('.png', pixels)[1].tobytes())
