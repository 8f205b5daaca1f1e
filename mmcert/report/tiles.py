"""What a page holds of each image: names and colours, packed maps, thumbnails, and their place."""

import base64
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.certify import ABSTAIN_LABEL, Hierarchy, Votes, joint_bounds
from mmcert.files import atomic_writer
from mmcert.report.attack_folder import Changes
from mmcert.report.pictures import draw_cloud, paint
from mmcert.report.results_folder import StoredResult
from mmcert.votes import VotesRecord

INLINE_BYTES = 20 * 2**20
"""Images of more bytes than this lie in a folder beside the page."""

THUMBNAIL = 128
"""Width of thumbnails, in pixels."""

NO_LABEL = 255
"""Where a map of the page has no ground truth; ``ABSTAIN_LABEL`` is where nothing is certified."""

COLOURS = (
    '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#f0e442', '#9000f0',
    '#603000', '#300090', '#00f090', '#906030', '#300030', '#9060f0', '#603060', '#300060',
)  # fmt: skip
"""Colours that colour-blind readers tell apart: Okabe and Ito's, then, one by one, those of a grid
that stay farthest from the ones before, in each of three kinds of colour blindness."""

DARK, LIGHT = (70, 70, 70), (255, 255, 255)
"""The hatch of abstentions."""

Shown = NDArray[Any]
"""An RGB image, shape (H, W, 3), uint8, or the coordinates of a cloud, shape (N, 3)."""

FINEST = 2**16 - 1
"""Coordinates of a cloud are whole numbers up to this, of equal steps along all axes."""


@dataclass(frozen=True)
class Legend:
    """Names and colours of the values of label maps: classes, then the groups of a hierarchy.

    Attributes:
        names (list): Their names.
        colours (np.ndarray): Their colours, shape (C + G, 3), uint8.
        num_classes (int): How many of them are classes.
        hierarchy (Hierarchy | None): The hierarchy, if the page has room for its groups.
        starts (list): For each level of the hierarchy, the value of its first group.
        ignore_index (int): Value of labels without ground truth.
    """

    names: list[str]
    colours: NDArray[np.uint8]
    num_classes: int
    hierarchy: Hierarchy | None = None
    starts: list[int] = field(default_factory=list)
    ignore_index: int = NO_LABEL

    @classmethod
    def of(cls, summary: Mapping[str, Any], result: StoredResult) -> 'Legend':
        """That of a run, one of whose images is given."""
        meta = {} if result.record is None else result.record.meta
        ignore_index = meta.get('provenance', {}).get('ignore_index', NO_LABEL)
        count = len(summary['per_class']['certIoU'])
        names = list(summary['classes']) or [f'class {index}' for index in range(count)]
        colours, starts = class_colours(count), []
        spec = meta.get('sampling', {}).get('hierarchy')
        if spec is None or 'level' not in result.maps:
            return cls(names, colours, count, ignore_index=ignore_index)
        hierarchy, with_groups = Hierarchy.from_spec(spec), [*names]
        for level, groups in zip(hierarchy.names, hierarchy.groups, strict=True):
            starts.append(len(with_groups))
            with_groups += [f'{name} (group)' for name in level]
            means = [colours[:count][groups == group].mean(axis=0) for group in range(len(level))]
            colours = np.concatenate([colours, np.round(means).astype(np.uint8)])
        if len(with_groups) > ABSTAIN_LABEL:
            return cls(names, colours[:count], count, ignore_index=ignore_index)
        return cls(with_groups, colours, count, hierarchy, starts, ignore_index)

    def label(self, labels: NDArray[Any]) -> NDArray[np.uint8]:
        """A ground truth as the page has it."""
        known = (labels != self.ignore_index) & (labels < self.num_classes)
        return np.where(known, labels, NO_LABEL).astype(np.uint8)

    def grouped(self, result: StoredResult) -> NDArray[np.uint8] | None:
        """The certified map with groups where only they are certified; None without a hierarchy."""
        if not self.starts:
            return None
        found = result.labels.copy()
        for level, start in enumerate(self.starts, 1):
            here = result.maps['level'] == level
            found[here] = start + result.maps[f'groups{level}'][here]
        return found


def class_colours(number: int) -> NDArray[np.uint8]:
    """A colour for each class, shape (C, 3); beyond ``COLOURS``, hues of several brightnesses."""
    listed = [[int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in COLOURS[:number]]
    further = np.arange(len(listed), number)
    # Steps of a golden section spread over the circle of hues, however many there are.
    hue = (further * 0.618034 * 180) % 180
    saturation, brightness = (
        np.array([170, 230])[further % 2],
        np.array([235, 190, 140])[further % 3],
    )
    hues = np.stack([hue, saturation, brightness], axis=1).astype(np.uint8)
    if len(further):
        listed += cv2.cvtColor(hues[None], cv2.COLOR_HSV2RGB)[0].tolist()
    return np.array(listed, dtype=np.uint8).reshape(-1, 3)


def tile(
    result: StoredResult,
    legend: Legend,
    shown: Shown | None,
    further: Mapping[str, NDArray[Any]],
    changes: Changes,
    axes: Sequence[int],
) -> dict[str, Any]:
    """What the page shows of one input, as JSON values.

    Args:
        result (StoredResult): The input.
        legend (Legend): Names and colours.
        shown (np.ndarray | None): The image or the coordinates, if they were found; the points of
            a cloud that was not found stand in rows.
        further (Mapping): Maps for the page's scripts.
        changes (Mapping): What attacks changed of it.
        axes (Sequence[int]): The coordinates of a cloud in the order in which it is shown.
    """
    found: dict[str, Any] = {'name': result.name, 'shape': list(result.labels.shape)}
    maps: dict[str, NDArray[Any]] = {'certified': result.labels, **further}
    if (grouped := legend.grouped(result)) is not None:
        maps['groups'] = grouped
    if 'radius' in result.maps:
        # Few radii occur: each is a function of the hits.
        values, places = np.unique(result.maps['radius'], return_inverse=True)
        maps['radius'], found['radii'] = places, [float(value) for value in values]
        if result.record is not None:
            found['bounds'] = _bounds(result, places, len(values))
    if (record := result.record) is not None:
        found['votes'] = _counted(record.votes)
        maps |= _predictions(record, legend)
    changed, found['lengths'] = _changes(changes, result.labels.shape)
    found['missing'] = shown is None
    if shown is not None and shown.ndim == 3:
        found['image'] = _data_url('.jpg', shown)
    elif shown is not None:
        moved = {f'attack{at}_points': by[:, axes] * size for at, (by, size) in changes.items()}
        points, *attacked = map(pack, _steps([shown, *(shown + by for by in moved.values())]))
        found |= {'points': points, 'attacked': dict(zip(moved, attacked, strict=True))}
    elif result.labels.ndim == 1:
        # Points that stand in rows have no place to be moved from.
        found['points'] = pack(_steps([in_rows(len(result.labels))])[0])
    found['maps'] = {name: pack(values) for name, values in (maps | changed).items()}
    return found


def _counted(votes: Votes) -> dict[str, Any]:
    """What votes are, and how many."""
    kind = 'score' if votes.table is not None else 'draws'
    return {
        'kind': 'values' if votes.enumerated else kind,
        'n': votes.n,
        'most': votes.n if votes.table is None else len(votes.table) - 1,
        **({} if votes.runner_up is None else {'choosing': votes.choosing_draws}),
    }


def _predictions(record: VotesRecord, legend: Legend) -> dict[str, NDArray[Any]]:
    """What models say of the pixels, with how many hits, and the ground truth."""
    votes = record.votes
    maps = {'smoothed': record.spread(votes.guess), 'hits': record.spread(votes.hits)}
    if votes.runner_up is not None and votes.runner_up_hits is not None:
        # The page has no other value for what is not there.
        seen = np.where(votes.runner_up_hits > 0, votes.runner_up, NO_LABEL)
        maps['runner_up'] = record.spread(seen)
        maps['runner_up_hits'] = record.spread(votes.runner_up_hits)
    if record.base is not None:
        maps['base'] = record.spread(record.base)
    if record.label is not None:
        maps['label'] = legend.label(record.label)
    return maps


def _changes(
    changes: Changes, shape: tuple[int, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """What attacks changed: maps, and how long a step of each is.

    Of an image there are three values a pixel, 128 where nothing was changed; of a cloud, how far
    each point was moved. What is not of the shape of the label map has no place in the page.
    """
    maps, lengths = {}, {}
    for number, (steps, length) in changes.items():
        key = f'attack{number}'
        if len(shape) == 2 and steps.shape == (*shape, 3):
            maps[f'{key}_change'], lengths[key] = steps.astype(np.int16) + 128, length
        elif len(shape) == 1 and len(steps) == shape[0]:
            far = np.linalg.norm(steps[:, :3].astype(np.float64), axis=1)
            largest = max(float(far.max(initial=0.0)), 1.0)
            maps[f'{key}_moved'] = np.round(255 * far / largest).astype(np.uint8)
            lengths[key] = length * largest / 255
    return maps, lengths


def _bounds(result: StoredResult, places: NDArray[np.integer], number: int) -> list[float]:
    """For each radius that occurs, the lower bound of the probability that it follows from."""
    record, certificate = result.record, result.certificate
    assert record is not None
    bounds = joint_bounds(
        record.votes,
        alpha=certificate['test']['alpha'],
        selection=certificate['promise']['joint_radius']['selection'],
    )
    least = np.ones(number)
    np.minimum.at(least, places.ravel(), record.spread(bounds).ravel().astype(np.float64))
    return [float(value) for value in least]


def _steps(clouds: Sequence[NDArray[np.floating]]) -> list[NDArray[np.uint16]]:
    """Coordinates (N, 3) as whole numbers; the middle of their box is that of the numbers."""
    points = np.concatenate(clouds)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = max(float((high - low).max()), 1e-12)
    return [
        np.round(FINEST * (0.5 + (places - (low + high) / 2) / extent)).astype(np.uint16)
        for places in clouds
    ]


def pack(values: NDArray[np.integer]) -> dict[str, str]:
    """Integers as text: deflated, in base64, row by row, of the smallest type that holds them.

    >>> unpack(pack(np.array([[3, 700]])), (1, 2)).tolist()
    [[3, 700]]
    """
    kind = next(kind for kind in ('u1', 'u2', 'u4') if values.max(initial=0) < 256 ** int(kind[1]))
    raw = np.ascontiguousarray(values, dtype=f'<{kind}').tobytes()
    return {'type': kind, 'data': base64.b64encode(zlib.compress(raw, 6)).decode()}


def unpack(packed: Mapping[str, str], shape: Sequence[int]) -> NDArray[np.integer]:
    """What ``pack`` made text of."""
    raw = zlib.decompress(base64.b64decode(packed['data']))
    return np.frombuffer(raw, dtype=f'<{packed["type"]}').reshape(shape)


def thumbnail(result: StoredResult, legend: Legend, shown: Shown | None) -> str:
    """The certified map, small, as a data URL; abstentions are hatched, or white in a cloud."""
    if result.labels.ndim == 1:
        shown = in_rows(len(result.labels)) if shown is None else shown
        colours = paint(result.labels, legend.colours.tolist(), LIGHT)
        drawn, size = draw_cloud(shown, colours, 2, LIGHT), (THUMBNAIL, THUMBNAIL)
        return _data_url('.png', np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)))
    height, width = result.labels.shape
    size = max(1, round(height * THUMBNAIL / width)), THUMBNAIL
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, (height, width), strict=True))
    labels = result.labels[rows[:, None], columns]
    drawn = paint(labels, legend.colours.tolist(), LIGHT)
    hatch = np.indices(labels.shape).sum(axis=0) % 5 < 2
    drawn[(labels == ABSTAIN_LABEL) & hatch] = DARK
    return _data_url('.png', drawn)


def in_rows(number: int) -> NDArray[np.float64]:
    """Places (N, 3) for the points of a cloud that was not found: rows of a square."""
    side = max(1, int(np.ceil(np.sqrt(number))))
    places = np.arange(number)
    return np.stack([places % side, 0 * places, -(places // side)], axis=1).astype(np.float64)


def _data_url(ending: str, pixels: NDArray[np.uint8]) -> str:
    kind = {'.jpg': 'jpeg', '.png': 'png'}[ending]
    encoded = cv2.imencode(ending, np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
    return f'data:image/{kind};base64,{base64.b64encode(encoded).decode()}'


class Tiles:
    """The images of a page: within it, or in a folder beside it once they are too many bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outside = False
        self.number = 0
        self._inline: list[str] = []
        self._bytes = 0

    def add(self, content: Mapping[str, Any]) -> None:
        """Adds the next image."""
        text = script(content)
        self.number += 1
        self._bytes += len(text)
        self._inline.append(text)
        if not self.outside and self._bytes > INLINE_BYTES:
            self.outside = True
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        if self.outside:
            first = self.number - len(self._inline)
            for index, one in enumerate(self._inline, first):
                # A page without a server may load scripts from beside it, and nothing else.
                with atomic_writer(self.folder / f'{index}.js') as file:
                    file.write(f'mmcertTile({index}, {one});\n'.encode())
            self._inline.clear()

    @property
    def inline(self) -> list[str]:
        """Those within the page: JSON that may stand in a script element."""
        return self._inline


def script(content: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(content, separators=(',', ':'), allow_nan=False).replace('<', '\\u003c')
