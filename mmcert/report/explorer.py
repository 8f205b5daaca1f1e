"""One HTML page of a run: its promise and figures, and every image with its maps, to look at."""

import base64
import html
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.certify import ABSTAIN_LABEL, Hierarchy
from mmcert.files import atomic_writer
from mmcert.metrics.radius_curve import RadiusCurve, count_radii
from mmcert.report.pictures import Color, paint
from mmcert.report.results_folder import ImageResult, ResultsFolder
from mmcert.report.summary import claim, kind_of_all

INLINE_BYTES = 20 * 2**20
"""Images of more bytes than this lie in a folder beside the page."""

THUMBNAIL = 128
"""Width of thumbnails, in pixels."""

CURVE_POINTS = 60

NO_LABEL = 255
"""Where a map of the page has no ground truth; ``ABSTAIN_LABEL`` is where nothing is certified."""

COLOURS = (
    '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#f0e442', '#332288',
    '#44aa99', '#882255', '#999933', '#88ccee', '#117733', '#cc6677', '#aa4499', '#ddcc77',
)  # fmt: skip
"""Colours that colour-blind readers tell apart: Okabe and Ito's, then Paul Tol's."""

DARK, LIGHT = (70, 70, 70), (255, 255, 255)
"""The hatch of abstentions."""

HEADLINES = {
    'certAcc': 'certified accuracy',
    'mIoU': 'certified mIoU',
    'worst_mIoU': 'worst-case mIoU',
    'abstain': 'abstention',
    'smoothed_aAcc': 'accuracy of the smoothed model',
    'smoothed_mIoU': 'mIoU of the smoothed model',
    'base_aAcc': 'accuracy of the base model',
    'base_mIoU': 'mIoU of the base model',
}
"""Rates of ``summary.json`` at the top of the page."""

CLASS_COLUMNS = {
    'certAcc': 'certified accuracy',
    'certIoU': 'certified IoU',
    'worst_IoU': 'worst-case IoU',
    'abstain_valid': 'abstention',
}

Picture = NDArray[np.uint8]
"""An RGB image, shape (H, W, 3)."""


def find_no_picture(result: ImageResult) -> Picture | None:
    """Where there is no folder of images."""
    return None


def write_report(
    results: ResultsFolder,
    out: str | os.PathLike[str],
    find_picture: Callable[[ImageResult], Picture | None] = find_no_picture,
    images: int | None = None,
) -> 'Written':
    """Writes the page.

    Args:
        results (ResultsFolder): What it is about.
        out (str | os.PathLike): HTML file to write.
        find_picture (Callable): Returns the input of a result, shape (H, W, 3), if it is found.
        images (int | None): How many images to show, from the worst to the best in even steps;
            None shows all. The figures are of all images.

    Returns:
        Written: What the page shows.

    Raises:
        ValueError: If ``images`` is below 1, or votes do not belong to the certificates.
        OSError: If a file cannot be read or written.
    """
    if images is not None and images < 1:
        raise ValueError(f'the number of images must be at least 1, got {images}')
    out = Path(out)
    shown = {line['name'] for line in spread(ranked(results.lines), images)}
    tiles, entries = Tiles(out.with_name(f'{out.stem}_files')), []
    legend: Legend | None = None
    curve: RadiusCurve | None = None
    radii, missing = _grid(results), 0
    for line in results.lines:
        if line['name'] not in shown and radii is None:
            continue
        result = results.image(line)
        legend = legend or Legend.of(results.summary, result)
        counted = None if radii is None else _count(result, radii)
        if counted is not None:
            curve = counted if curve is None else curve + counted
        if line['name'] in shown:
            picture = find_picture(result)
            missing += picture is None
            tiles.add(tile(result, legend, picture))
            entries.append({**line, 'thumbnail': thumbnail(result, legend)})
    assert legend is not None
    page = _page(results, legend, entries, curve, tiles)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(out) as file:
        file.write(page.encode())
    return Written(tiles.number, missing, tiles.folder if tiles.outside else None)


@dataclass(frozen=True)
class Written:
    """What a page shows.

    Attributes:
        shown (int): Number of images.
        missing (int): How many of them lack the input itself.
        folder (Path | None): The folder beside the page, if the images are too large for it.
    """

    shown: int
    missing: int
    folder: Path | None


def _score(line: Mapping[str, Any]) -> float:
    """What images are ranked by: certified accuracy, or the share without a label."""
    value = line.get('certAcc')
    return line['certified_share'] if value is None else value


def ranked(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Lines of ``images.jsonl``, the worst image first."""
    return sorted(lines, key=lambda line: (_score(line), line['name']))


def spread(lines: Sequence[Any], number: int | None) -> list[Any]:
    """So many items in even steps, first and last among them; all of them for None.

    >>> spread('abcdefg', 3)
    ['a', 'd', 'g']
    """
    if number is None or number >= len(lines):
        return list(lines)
    return [lines[index] for index in np.linspace(0, len(lines) - 1, number).round().astype(int)]


@dataclass(frozen=True)
class Legend:
    """Names and colours of the values of label maps: classes, then the groups of a hierarchy.

    Attributes:
        names (list): Their names.
        colours (np.ndarray): Their colours, shape (C + G, 3), uint8.
        num_classes (int): How many of them are classes.
        starts (list): For each level of the hierarchy, the value of its first group.
        ignore_index (int): Value of labels without ground truth.
    """

    names: list[str]
    colours: NDArray[np.uint8]
    num_classes: int
    starts: list[int] = field(default_factory=list)
    ignore_index: int = NO_LABEL

    @classmethod
    def of(cls, summary: Mapping[str, Any], result: ImageResult) -> 'Legend':
        """That of a run, one of whose images is given."""
        meta = {} if result.record is None else result.record.meta
        provenance = meta.get('provenance', {})
        count = len(summary['per_class']['certIoU'])
        names = list(summary['classes']) or [f'class {index}' for index in range(count)]
        colours, starts = class_colours(len(names)), []
        spec = meta.get('sampling', {}).get('hierarchy')
        if spec is not None and 'level' in result.maps:
            hierarchy = Hierarchy.from_spec(spec)
            for level, groups in zip(hierarchy.names, hierarchy.groups, strict=True):
                starts.append(len(names))
                names += [f'{name} (group)' for name in level]
                means = [
                    colours[:count][groups == group].mean(axis=0) for group in range(len(level))
                ]
                colours = np.concatenate([colours, np.round(means).astype(np.uint8)])
        if len(names) > ABSTAIN_LABEL:
            names, colours, starts = names[:count], colours[:count], []
        return cls(names, colours, count, starts, provenance.get('ignore_index', NO_LABEL))

    def label(self, labels: NDArray[Any]) -> NDArray[np.uint8]:
        """A ground truth as the page has it."""
        known = (labels != self.ignore_index) & (labels < self.num_classes)
        return np.where(known, labels, NO_LABEL).astype(np.uint8)

    def grouped(self, result: ImageResult) -> NDArray[np.uint8] | None:
        """The certified map with groups where only they are certified; None without a hierarchy."""
        if not self.starts:
            return None
        found = result.labels.copy()
        for level, start in enumerate(self.starts, 1):
            here = result.maps['level'] == level
            found[here] = start + result.maps[f'groups{level}'][here]
        return found


def class_colours(number: int) -> NDArray[np.uint8]:
    """A colour for each class, shape (C, 3); beyond ``COLOURS``, hues at two brightnesses."""
    listed = [[int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in COLOURS[:number]]
    further = np.arange(len(listed), number)
    hues = np.stack(
        [(further * 111) % 180, np.full_like(further, 170), np.where(further % 2, 235, 140)], axis=1
    ).astype(np.uint8)
    if len(further):
        listed += cv2.cvtColor(hues[None], cv2.COLOR_HSV2RGB)[0].tolist()
    return np.array(listed, dtype=np.uint8).reshape(-1, 3)


def tile(result: ImageResult, legend: Legend, picture: Picture | None) -> dict[str, Any]:
    """What the page shows of one image, as JSON values."""
    found: dict[str, Any] = {'name': result.name, 'shape': list(result.labels.shape)}
    maps: dict[str, NDArray[Any]] = {'certified': result.labels}
    if (grouped := legend.grouped(result)) is not None:
        maps['groups'] = grouped
    if 'radius' in result.maps:
        # Few radii occur: each is a function of the hits.
        values, maps['radius'] = np.unique(result.maps['radius'], return_inverse=True)
        found['radii'] = [float(value) for value in values]
    if (record := result.record) is not None:
        votes = record.votes
        kind = 'score' if votes.table is not None else 'draws'
        found['votes'] = {'kind': 'values' if votes.enumerated else kind, 'n': votes.n}
        found['votes']['most'] = votes.n if votes.table is None else len(votes.table) - 1
        maps |= {'smoothed': record.spread(votes.guess), 'hits': record.spread(votes.hits)}
        if record.base is not None:
            maps['base'] = record.spread(record.base)
        if record.label is not None:
            maps['label'] = legend.label(record.label)
    found['maps'] = {name: pack(values) for name, values in maps.items()}
    if picture is not None:
        found['image'] = _data_url('.jpg', picture)
    return found


def pack(values: NDArray[np.integer]) -> dict[str, str]:
    """Integers as text: deflated, in base64, row by row, of the smallest type that holds them.

    >>> unpack(pack(np.array([[3, 700]])), (1, 2)).tolist()
    [[3, 700]]
    """
    kind = next(kind for kind in ('u1', 'u2', 'u4') if values.max(initial=0) < 256 ** int(kind[1]))
    raw = np.ascontiguousarray(values, dtype=f'<{kind}').tobytes()
    return {'type': kind, 'data': base64.b64encode(zlib.compress(raw, 9)).decode()}


def unpack(packed: Mapping[str, str], shape: Sequence[int]) -> NDArray[np.integer]:
    """What ``pack`` made text of."""
    raw = zlib.decompress(base64.b64decode(packed['data']))
    return np.frombuffer(raw, dtype=f'<{packed["type"]}').reshape(shape)


def thumbnail(result: ImageResult, legend: Legend) -> str:
    """The certified map, small, with abstentions hatched, as a data URL."""
    height, width = result.labels.shape
    size = max(1, round(height * THUMBNAIL / width)), THUMBNAIL
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, (height, width), strict=True))
    labels = result.labels[rows[:, None], columns]
    colours: list[Color] = legend.colours.tolist()
    drawn = paint(labels, colours, LIGHT)
    hatch = np.indices(labels.shape).sum(axis=0) % 5 < 2
    drawn[(labels == ABSTAIN_LABEL) & hatch] = DARK
    return _data_url('.png', drawn)


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
        text = _script(content)
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

    def blocks(self) -> str:
        """The images within the page, as blocks that it reads when they are looked at."""
        return '\n'.join(
            f'<script type="application/json" id="tile-{index}">{text}</script>'
            for index, text in enumerate(self._inline)
        )


def _script(content: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(content, separators=(',', ':'), allow_nan=False).replace('<', '\\u003c')


def _grid(results: ResultsFolder) -> NDArray[np.float64] | None:
    """The radii of the curve; None where there is none."""
    if results.votes_folder is None:
        return None
    largest = 0.0
    for line in results.lines:
        file = results.certificates / f'{line["name"]}.npz'
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as stored:
            if 'radius' not in stored:
                return None
            largest = max(largest, float(stored['radius'].max(initial=0)))
    return np.linspace(0, largest, CURVE_POINTS) if largest > 0 else None


def _count(result: ImageResult, radii: NDArray[np.float64]) -> RadiusCurve | None:
    record = result.record
    if record is None or record.label is None:
        return None
    provenance = record.meta['provenance']
    return count_radii(
        record.label,
        record.spread(record.votes.guess),
        result.maps['radius'],
        radii,
        provenance['num_classes'],
        ignore_index=provenance['ignore_index'],
    )


def _page(
    results: ResultsFolder,
    legend: Legend,
    entries: Sequence[Mapping[str, Any]],
    curve: RadiusCurve | None,
    tiles: Tiles,
) -> str:
    """The HTML text."""
    summary, shared = results.summary, results.summary['certificate']
    kind = kind_of_all(line['kind'] for line in results.lines)
    counted = any(line['kind'] == 'count certificate' for line in results.lines)
    sentence = claim(shared, summary['images'], kind, counted)
    data = {
        'images': [
            {key: value for key, value in entry.items() if not isinstance(value, (dict, list))}
            for entry in entries
        ],
        'folder': tiles.folder.name if tiles.outside else None,
        'names': legend.names,
        'colours': legend.colours.tolist(),
        'classes': legend.num_classes,
        'abstained': ABSTAIN_LABEL,
        'unlabelled': NO_LABEL,
        'hatch': [DARK, LIGHT],
        'kind': kind,
        'radius': ', '.join(filter(None, (shared.get('norm'), shared.get('unit')))),
    }
    assets = resources.files('mmcert.report') / 'assets'
    parts = {
        'title': html.escape(f'{shared["model"].get("config", results.folder)}: certified results'),
        'style': (assets / 'explorer.css').read_text(),
        'script': (assets / 'explorer.js').read_text(),
        'claim': html.escape(sentence[0].upper() + sentence[1:]) + '.',
        'together': html.escape(_together(summary)),
        'headlines': _headlines(summary['rates']),
        'curve': '' if curve is None else _curve(curve, summary),
        'classes': _class_table(summary),
        'facts': _facts(results),
        'extremes': _extremes(entries),
        'shown': _shown(len(entries), summary['images']),
        'data': _script(data),
        'tiles': '' if tiles.outside else tiles.blocks(),
    }
    return Template((assets / 'explorer.html').read_text()).substitute(parts)


def _number(rate: float | None, decimals: int = 3) -> str:
    """A rate as text, with all of its digits in the markup."""
    if rate is None:
        return 'none'
    return f'<data value="{rate!r}">{rate:.{decimals}f}</data>'


def _together(summary: Mapping[str, Any]) -> str:
    """What holds for all images at once."""
    found = summary.get('all_images', {}).get('description', '')
    return f'{found[:1].upper()}{found[1:]}{"." * bool(found)}'


def _headlines(rates: Mapping[str, float | None]) -> str:
    return '\n'.join(
        f'<div><dt>{name}</dt><dd id="rate-{key}">{_number(rates[key], 4)}</dd></div>'
        for key, name in HEADLINES.items()
        if rates.get(key) is not None
    )


def _class_table(summary: Mapping[str, Any]) -> str:
    per_class = summary['per_class']
    columns = {key: name for key, name in CLASS_COLUMNS.items() if key in per_class}
    names = summary['classes'] or [f'class {i}' for i in range(len(per_class['certIoU']))]
    head = ''.join(f'<th scope="col">{name}</th>' for name in ('class', *columns.values()))
    rows = []
    for index, name in enumerate(names):
        cells = ''.join(f'<td>{_number(per_class[key][index])}</td>' for key in columns)
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    body = '\n'.join(rows)
    return f'<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'


def _facts(results: ResultsFolder) -> str:
    """What was certified, how and with what, as the entries of a list of definitions."""
    shared = results.summary['certificate']
    model = dict(shared['model'])
    versions = model.pop('versions', {})
    written = time.localtime((results.folder / 'summary.json').stat().st_mtime)
    test = {
        key: shared[key]
        for key in ('tau', 'alpha', 'procedure', 'selection', 'k', 'n0', 'n', 'num_values', 'seed')
        if shared.get(key) is not None
    }
    perturbation = [shared.get('perturbation'), shared.get('distribution')]
    parameters = shared.get('parameters', {})
    facts = {
        'results written': time.strftime('%Y-%m-%d %H:%M', written),
        'images': str(results.summary['images']),
        'attack set': shared.get('attack_set', 'another one for each image'),
        'perturbation': ': '.join(filter(None, perturbation)),
        'its parameters': _listed({k: v for k, v in parameters.items() if not isinstance(v, dict)}),
        'test': _listed(test),
        'certified in': shared.get('certified_space', ''),
        'model': _listed({key: value for key, value in model.items() if value is not None}),
        'versions': _listed(versions),
    }
    return '\n'.join(
        f'<div><dt>{name}</dt><dd>{html.escape(text)}</dd></div>'
        for name, text in facts.items()
        if text
    )


def _listed(values: Mapping[str, Any]) -> str:
    return ', '.join(f'{key} {value}' for key, value in values.items())


def _extremes(entries: Sequence[Mapping[str, Any]], number: int = 3) -> str:
    """Links to the worst and the best images that are shown."""
    place = {entry['name']: index for index, entry in enumerate(entries)}
    ordered = ranked(entries)
    number = max(1, min(number, len(ordered) // 2))
    sides = {'Worst': ordered[:number], 'Best': ordered[::-1][:number]}
    found = []
    for word, side in sides.items():
        items = ''.join(
            f'<li><a href="#image-{place[entry["name"]]}"><img src="{entry["thumbnail"]}" alt="">'
            f'{html.escape(entry["name"])}</a> {_number(_score(entry))}</li>'
            for entry in side
        )
        found.append(f'<section><h3>{word}</h3><ul class="extremes">{items}</ul></section>')
    return '\n'.join(found)


def _shown(shown: int, images: int) -> str:
    if shown == images:
        return f'All {images} images.' if images != 1 else 'One image.'
    return (
        f'{shown} of {images} images, from the worst to the best in even steps. All figures above '
        'are of all images.'
    )


def _curve(curve: RadiusCurve, summary: Mapping[str, Any]) -> str:
    """Certified accuracy and mIoU over the joint radius, as inline SVG."""
    shared, rows = summary['certificate'], curve.rows()
    width, height, left, right, bottom = 640, 300, 50, 25, 40
    largest = rows[-1]['radius']

    def place(radius: float, value: float) -> tuple[float, float]:
        across = left + radius / largest * (width - left - right)
        return round(across, 1), round(10 + (1 - value) * (height - bottom - 10), 1)

    def line(key: str) -> str:
        # What holds at one radius holds at all smaller ones, and says nothing of larger ones.
        steps = [place(rows[0]['radius'], rows[0][key])]
        for row in rows[1:]:
            x, y = place(row['radius'], row[key])
            steps += [(steps[-1][0], y), (x, y)]
        points = ' '.join(f'{x},{y}' for x, y in steps)
        return f'<polyline class="{key}" points="{points}"/>'

    marks = []
    for step in range(6):
        x, y = place(largest * step / 5, step / 5)
        _, end = place(0, 0)
        marks.append(f'<line x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>')
        marks.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{step / 5:.1f}</text>')
        text = f'{largest * step / 5:.3g}'
        marks.append(f'<text x="{x}" y="{end + 16}" text-anchor="middle">{text}</text>')
    axis = ', '.join(filter(None, (shared.get('norm'), shared.get('unit'))))
    point = ''
    if 'radius' in shared and shared['radius'] <= largest:
        x, y = place(shared['radius'], summary['rates']['certAcc'])
        point = f'<circle cx="{x}" cy="{y}" r="5"><title>the certificate</title></circle>'
    return (
        '<h2>Over the radius</h2>\n<figure class="curve">'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Certified accuracy and mIoU '
        f'over the joint radius, from 0 to {largest:.3g}">{"".join(marks)}'
        f'{line("certAcc")}{line("mIoU")}{point}'
        f'<text x="{(width + left) // 2}" y="{height - 4}" text-anchor="middle">joint radius'
        f'{html.escape(": " + axis if axis else "")}</text></svg>'
        '<figcaption><span class="key certAcc"></span>certified accuracy '
        '<span class="key mIoU"></span>certified mIoU. From the radius maps, which hold at all '
        f'radii at once, with probability {1 - shared["alpha"]:g} per image by themselves.'
        f'{" The dot is the certificate of this run, another claim." if point else ""}'
        '</figcaption></figure>'
    )
