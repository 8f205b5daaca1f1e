"""Pictures of certificates: the input, its maps side by side, and a legend of the classes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.certify import ABSTAIN_LABEL, Hierarchy
from mmcert.certify.rounding import AtMost

Color = Sequence[int]
"""Red, green and blue, 0-255."""

ABSTAIN_COLOR = (255, 255, 255)
UNLABELLED_COLOR = (0, 0, 0)
BACKGROUND = 32
TITLE_HEIGHT = 22
LEGEND_HEIGHT = 20
SCALE_HEIGHT = 32
FONT, LEAST_FONT = 0.45, 0.3
GAP = 4

CLOUD_SIZE = 360
AZIMUTH, ELEVATION = 40.0, 25.0
"""Where the viewer of a cloud stands, in degrees."""


def certificate_picture(
    data: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    palette: Sequence[Color],
    classes: Sequence[str] = (),
    *,
    title: str = 'certified',
    hierarchy: Hierarchy | None = None,
    up: int = 2,
    abstain_color: Color = ABSTAIN_COLOR,
) -> NDArray[np.uint8]:
    """Draws an image or a cloud and what is certified of it.

    Abstentions are white by default, components without ground truth black in the label.

    >>> image = np.zeros((60, 80, 3), dtype=np.uint8)
    >>> maps = {'cert': np.zeros((60, 80), dtype=int), 'base': np.ones((60, 80), dtype=int)}
    >>> certificate_picture(image, maps, [(128, 64, 128), (0, 0, 142)], ['road', 'car']).shape
    (102, 252, 3)

    Args:
        data (np.ndarray): RGB image, shape (H, W, 3), uint8, or a cloud, shape (N, D), coordinates
            first.
        maps (Mapping): ``cert``, the classes with ``ABSTAIN_LABEL`` for abstentions, shape (H, W)
            or (N,). As far as they are there, ``label`` (ground truth), ``base`` (prediction of the
            base model) and ``radius`` (joint radii) of the same shape, and ``levels`` of an image,
            shape (1 + L, H, W): the certified level, then the group of each level.
        palette (Sequence): Colour of each class.
        classes (Sequence[str]): Names of the classes, for the legend; none draws none.
        title (str): Title of the certified map.
        hierarchy (Hierarchy | None): What ``levels`` refers to.
        up (int): Axis of a cloud that points up.
        abstain_color (Sequence[int]): Colour of abstentions.

    Returns:
        np.ndarray: RGB picture, uint8: the panels below their titles, in one row or two, and the
        legend.
    """
    is_cloud = maps['cert'].ndim == 1

    def panel(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return draw_cloud(data[:, :3], colours, up, abstain_color) if is_cloud else colours

    panels = {} if is_cloud else {'image': data}
    for name, heading in (('label', 'label'), ('base', 'base model')):
        if name in maps:
            panels[heading] = panel(paint(maps[name], palette))
    certified = paint(maps['cert'], palette, abstain_color)
    panels[title] = panel(certified)
    groups: dict[str, Color] = {}
    if 'levels' in maps and hierarchy is not None and not is_cloud:
        with_groups, groups = _paint_groups(certified, maps['levels'], palette, hierarchy)
        panels['certified, with groups'] = with_groups
    if 'radius' in maps:
        largest = maps['radius'].max(initial=0.0)
        panels[f'joint radius, 0 to {largest:.3g}'] = panel(heat_map(maps['radius'], abstain_color))
    entries = {
        name: palette[index]
        for index, name in enumerate(classes)
        if any((maps[key] == index).any() for key in ('label', 'base', 'cert') if key in maps)
    }
    if classes:
        entries |= groups
        if (maps['cert'] == ABSTAIN_LABEL).any():
            entries['abstained'] = abstain_color
        if 'label' in maps and (maps['label'] >= len(palette)).any():
            entries['no ground truth'] = UNLABELLED_COLOR
    width = least_width(panels)
    return with_legend(arranged([titled(*item, width) for item in panels.items()]), entries)


def certificate_title(certificate: Mapping[str, Any]) -> str:
    """The title of a certified map, from what its certificate says (``mmcert.certifier.entries``).

    Whose classes it shows, and what they withstand.
    """
    if certificate.get('kind') == 'exact':
        return f'base model, verified at {certificate["num_values"]} parameters'
    title = 'smoothed model, certified'
    attack = certificate.get('attack_on_this_input')
    if attack is not None and 'cells' in attack:
        return f'{title} on the attack set'
    if attack is not None:
        estimate = ' (an estimate)' * (certificate['kind'] == 'estimate')
        return f'{title}, tau {certificate["tau"]:.3f}{estimate}'
    if certificate.get('norm'):
        return f'{title}, {certificate["norm"]} {AtMost(certificate["radius"]):.3g}'
    return title


def paint(
    labels: NDArray[np.integer], palette: Sequence[Color], other: Color = UNLABELLED_COLOR
) -> NDArray[np.uint8]:
    """Colours labels (...) as RGB (..., 3); ``other`` is for values that are no class."""
    table = np.full((256, 3), other, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[np.clip(labels, 0, 255)]


def heat_map(
    values: NDArray[np.floating],
    zero: Color | None = ABSTAIN_COLOR,
    largest: float | None = None,
) -> NDArray[np.uint8]:
    """Colours numbers >= 0, (H, W) or (N,), as RGB (..., 3), dark to bright.

    The brightest is ``largest``, by default the largest value; 0 is ``zero``, or dark for None.
    """
    scale = float(values.max(initial=0.0)) if largest is None else largest
    shades = np.clip(values / max(scale, 1e-12) * 255, 0, 255).astype(np.uint8)
    mapped = cv2.applyColorMap(np.atleast_2d(shades), cv2.COLORMAP_VIRIDIS)
    colours = np.array(mapped[..., ::-1], dtype=np.uint8).reshape(*values.shape, 3)
    if zero is not None:
        colours[values <= 0] = zero
    return colours


def scale_bar(width: int, largest: float) -> NDArray[np.uint8]:
    """What the colours of a ``heat_map`` mean: a strip from 0 to the largest, with numbers."""
    bar = np.full((SCALE_HEIGHT, width, 3), BACKGROUND, dtype=np.uint8)
    inner = max(width - 10, 1)
    bar[4:14, 5 : 5 + inner] = heat_map(np.linspace(0, 1, inner), None, 1.0)
    for place, text in ((0.0, '0'), (0.5, f'{largest / 2:.3g}'), (1.0, f'{largest:.3g}')):
        left = 5 + place * inner - place * _width(text) * LEAST_FONT / FONT
        _write(bar, text, (round(left), 26), LEAST_FONT)
    return bar


def draw_cloud(
    points: NDArray[np.floating], colours: NDArray[np.uint8], up: int, bright: Color
) -> NDArray[np.uint8]:
    """Draws points (N, 3) in their RGB colours (N, 3) as discs, in parallel projection.

    The nearest ones are drawn last, and those in the colour ``bright`` are not shaded by depth. The
    picture has the shape (CLOUD_SIZE, CLOUD_SIZE, 3).
    """
    size = CLOUD_SIZE
    azimuth, elevation = np.radians([AZIMUTH, ELEVATION])
    x, y, z = (points[:, axis % 3].astype(np.float64) for axis in (up + 1, up + 2, up))
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
    unshaded = (colours == bright).all(axis=1)
    shaded = np.where(unshaded[:, None], colours, colours * shade[:, None])
    for index in np.argsort(depth):
        place = int(pixels[index, 0]), int(pixels[index, 1])
        cv2.circle(picture, place, radius, shaded[index].tolist(), -1, cv2.LINE_AA)
    return picture


def _paint_groups(
    certified: NDArray[np.uint8],
    levels: NDArray[np.integer],
    palette: Sequence[Color],
    hierarchy: Hierarchy,
) -> tuple[NDArray[np.uint8], dict[str, Color]]:
    """The certified map with groups in the mean colour of their classes, and those colours."""
    level, *choices = levels
    drawn, colours = certified.copy(), dict[str, Color]()
    for index, choice in enumerate(choices, start=1):
        here = level == index
        for group in np.unique(choice[here]):
            members = np.flatnonzero(hierarchy.groups[index - 1] == group)
            colour = np.asarray(palette, dtype=np.float64)[members].mean(axis=0).round()
            drawn[here & (choice == group)] = colour
            colours[hierarchy.names[index - 1][group]] = colour.astype(int).tolist()
    return drawn, colours


def arranged(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Panels of one size in a row, in two where there are more than four."""
    columns = len(panels) if len(panels) <= 4 else -(-len(panels) // 2)
    blank = np.full_like(panels[0], BACKGROUND)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    rows[-1] += [blank] * (columns - len(rows[-1]))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def titled(title: str, panel: NDArray[np.uint8], width: int = 0) -> NDArray[np.uint8]:
    """A panel, made ``width`` wide if it is not, below its title, with a gap to its right."""
    panel = _padded(panel, right=max(0, width - panel.shape[1]))
    bar = np.full((TITLE_HEIGHT, panel.shape[1], 3), BACKGROUND, dtype=np.uint8)
    _write(
        bar, title, (5, 16), min(FONT, max(LEAST_FONT, FONT * (bar.shape[1] - 8) / _width(title)))
    )
    return _padded(np.concatenate([bar, panel]), right=GAP)


def least_width(titles: Iterable[str]) -> int:
    """The width of panels at which all their titles fit."""
    return max(8 + math.ceil(_width(title) * LEAST_FONT / FONT) for title in titles)


def with_legend(picture: NDArray[np.uint8], entries: Mapping[str, Color]) -> NDArray[np.uint8]:
    """The picture above names and colours, in as many rows as they need."""
    box = LEGEND_HEIGHT - 8
    widths = {name: _width(name) + box + 20 for name in entries}
    width = max(picture.shape[1], *widths.values(), 0)
    rows: list[NDArray[np.uint8]] = []
    left = width
    for name, colour in entries.items():
        if left + widths[name] > width:
            rows.append(np.full((LEGEND_HEIGHT, width, 3), BACKGROUND, dtype=np.uint8))
            left = 0
        rows[-1][4 : 4 + box, left + 5 : left + 5 + box] = colour
        # An outline tells dark colours from the background.
        corners = (left + 5, 4), (left + 4 + box, 3 + box)
        cv2.rectangle(rows[-1], *corners, (128, 128, 128), 1)
        _write(rows[-1], name, (left + box + 10, 15))
        left += widths[name]
    return np.concatenate([_padded(picture, right=width - picture.shape[1]), *rows])


def _padded(picture: NDArray[np.uint8], right: int) -> NDArray[np.uint8]:
    return np.pad(picture, ((0, 0), (0, right), (0, 0)), constant_values=BACKGROUND)


def _write(
    picture: NDArray[np.uint8], text: str, place: tuple[int, int], scale: float = FONT
) -> None:
    white = (255, 255, 255)
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, white, 1, cv2.LINE_AA)


def _width(text: str) -> int:
    (width, _), _ = cv2.getTextSize(text or ' ', cv2.FONT_HERSHEY_SIMPLEX, FONT, 1)
    return width
