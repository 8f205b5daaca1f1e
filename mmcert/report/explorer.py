"""One HTML page of a run: its promise and figures, and every image with its maps, to look at."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from mmcert.certify import ABSTAIN_LABEL
from mmcert.certify.rounding import AtLeast, AtMost
from mmcert.files import atomic_writer
from mmcert.metrics.radius_curve import RadiusCurve, count_radii
from mmcert.report import attack_folder
from mmcert.report.attack_folder import AttackFolder
from mmcert.report.corruption_folder import CorruptionFolder
from mmcert.report.exploration import RATES, Exploration, RadiusAt, maps_to_try, why_not
from mmcert.report.results_folder import ResultsFolder, StoredResult
from mmcert.report.summary import claim, kind_of_all
from mmcert.report.tiles import (
    DARK,
    LIGHT,
    NO_LABEL,
    Legend,
    Shown,
    Tiles,
    script,
    thumbnail,
    tile,
)

CURVE_POINTS = 60

SCRIPTS = ('statistics.js', 'tiles.js', 'settings.js', 'cloud.js', 'explorer.js')
"""In the order in which the page runs them."""

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

LAYERS = {
    'image': 'image',
    'label': 'label',
    'base': 'prediction of the base model',
    'smoothed': 'prediction of the smoothed model',
    'certified': 'certified map',
    'groups': 'certified map with groups',
    'explored': 'other settings, no certificate',
    'radius': 'joint radius',
    'share': 'vote share of the guess',
    'runner_up': 'runner-up class',
}
"""What can be seen of an image, in order, beside attacks."""

ATTACKED = {
    'image': {'image': 'attacked image', 'change': 'perturbation'},
    'cloud': {'moved': 'how far points were moved'},
}
"""What can be seen of an input that the smoothed model was attacked on."""

AXES = (0, 1, 2)

CLASS_COLUMNS = {
    'certAcc': 'certified accuracy',
    'certIoU': 'certified IoU',
    'worst_IoU': 'worst-case IoU',
    'abstain_valid': 'abstention',
}


def find_nothing(result: StoredResult) -> Shown | None:
    """Where the data set is not known."""
    return None


def write_report(
    results: ResultsFolder,
    out: str | os.PathLike[str],
    find: Callable[[StoredResult], Shown | None] = find_nothing,
    images: int | None = None,
    radius_at: RadiusAt | None = None,
    attacks: AttackFolder | None = None,
    corruptions: CorruptionFolder | None = None,
) -> 'Written':
    """Writes the page.

    Args:
        results (ResultsFolder): What it is about.
        out (str | os.PathLike): HTML file to write.
        find (Callable): Returns the input of a result, if it is found: an RGB image, shape
            (H, W, 3), or the coordinates of a cloud, shape (N, 3), the last one up. If they are
            in another order than the model's, ``find.axes`` has the order.
        images (int | None): How many inputs to show, from the worst to the best in even steps;
            None shows all. The figures are of all images.
        radius_at (Callable | None): From a threshold tau to the radius of certificates, for other
            settings than those of the run.
        attacks (AttackFolder | None): Attacks on the model.
        corruptions (CorruptionFolder | None): What it reaches under corruptions.

    Returns:
        Written: What the page shows.

    Raises:
        ValueError: If ``images`` is below 1, or votes, attacks or corruptions do not belong to the
            certificates.
        OSError: If a file cannot be read or written.
    """
    if images is not None and images < 1:
        raise ValueError(f'the number of images must be at least 1, got {images}')
    for beside in (attacks, corruptions):
        if beside is not None:
            beside.require_of(results.summary['certificate'])
    out = Path(out)
    shown = {line['name'] for line in spread(ranked(results.lines), images)}
    first = results.image(results.lines[0])
    legend = Legend.of(results.summary, first)
    reason = why_not(results, first)
    exploration = None if reason else Exploration(results.summary, legend, radius_at)
    tiles, entries = Tiles(out.with_name(f'{out.stem}_files')), []
    curve: RadiusCurve | None = None
    radii, missing = _grid(results), 0
    for line in results.lines:
        if line['name'] not in shown and radii is None and exploration is None:
            continue
        result = results.image(line)
        counted = None if radii is None else _count(result, radii)
        if counted is not None:
            curve = counted if curve is None else curve + counted
        number = None
        if line['name'] in shown:
            number = tiles.number
            found = find(result)
            missing += found is None
            further = {} if exploration is None else maps_to_try(result, legend)
            further |= {} if attacks is None else attacks.maps(result)
            changes = {} if attacks is None else attacks.changes(result)
            axes = getattr(find, 'axes', AXES)
            tiles.add(tile(result, legend, found, further, changes, axes))
            entries.append({**line, 'thumbnail': thumbnail(result, legend, found)})
        if exploration is not None:
            exploration.add(result, number)
    settings = {'reason': reason} if exploration is None else exploration.to_dict()
    page = _page(results, legend, entries, curve, tiles, settings, attacks, corruptions)
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


def score(line: Mapping[str, Any]) -> float:
    """What images are ranked by: certified accuracy, or the share without a label."""
    value = line.get('certAcc')
    return line['certified_share'] if value is None else value


def ranked(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Lines of ``images.jsonl``, the worst image first."""
    return sorted(lines, key=lambda line: (score(line), line['name']))


def spread(lines: Sequence[Any], number: int | None) -> list[Any]:
    """So many items in even steps, first and last among them; all of them for None.

    >>> spread('abcdefg', 3)
    ['a', 'd', 'g']
    """
    if number is None or number >= len(lines):
        return list(lines)
    return [lines[index] for index in np.linspace(0, len(lines) - 1, number).round().astype(int)]


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


def _count(result: StoredResult, radii: NDArray[np.float64]) -> RadiusCurve | None:
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
    settings: Mapping[str, Any],
    attacks: AttackFolder | None,
    corruptions: CorruptionFolder | None,
) -> str:
    """The HTML text."""
    summary, shared = results.summary, results.summary['certificate']
    kind = kind_of_all(line['kind'] for line in results.lines)
    counted = any(line['kind'] == 'count certificate' for line in results.lines)
    sure = 'estimated' if kind == 'estimate' else 'certified'
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
        'counted': counted,
        'radius': _axis(shared),
        'settings': settings,
        'word': results.word,
        'sure': sure,
        'layers': _layers(kind, results.word, attacks),
        'attacks': [] if attacks is None else attacks.sets,
    }
    assets = resources.files('mmcert.report') / 'assets'
    environment = Environment(
        loader=FileSystemLoader(str(assets)), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    return environment.get_template('explorer.html').render(
        title=f'{shared["model"].get("config") or results.title}: {sure} results',
        sure=sure,
        style=Markup((assets / 'explorer.css').read_text()),
        scripts=[Markup((assets / name).read_text()) for name in SCRIPTS],
        claim=_sentence(claim(shared, summary['images'], kind, counted)),
        together=_together(summary.get('all_images'), results.word, counted),
        claims=_claims(shared, kind, results.word),
        headlines={
            key: (name.replace('certified', sure), summary['rates'][key])
            for key, name in HEADLINES.items()
            if summary['rates'].get(key) is not None
        },
        curve=None if curve is None else _curve(curve, summary),
        classes=_classes(summary, sure),
        facts=_facts(results),
        word=results.word,
        attacks=None if attacks is None else attacks.to_dict(),
        corruptions=None if corruptions is None else corruptions.to_dict(),
        extremes=_extremes(entries),
        explored=RATES,
        shown=_shown(len(entries), summary['images'], results.word),
        data=Markup(script(data)),
        tiles=[Markup(text) for text in tiles.inline],
    )


def _layers(kind: str, word: str, attacks: AttackFolder | None) -> list[dict[str, Any]]:
    """Key and name of all layers, and the value that is hatched in each."""
    names = dict(LAYERS)
    if attacks is not None:
        attacked = ATTACKED[word] | attack_folder.LAYERS
        names |= {f'attack_{key}': name for key, name in attacked.items()}
    if kind == 'estimate':
        names |= {
            'certified': 'estimated map, not proven',
            'groups': 'estimated map with groups, not proven',
        }
        if attacks is not None:
            names['attack_certified'] = 'estimated map at this radius, not proven'
    hatched = {'groups': ABSTAIN_LABEL, 'explored': ABSTAIN_LABEL, 'runner_up': NO_LABEL}
    return [
        {
            'key': key,
            'name': name,
            'hatched': ABSTAIN_LABEL if key.endswith('certified') else hatched.get(key),
        }
        for key, name in names.items()
    ]


def _sentence(text: str) -> str:
    return f'{text[:1].upper()}{text[1:]}{"." * bool(text)}'


def _together(found: Mapping[str, Any] | None, word: str, counted: bool) -> str:
    """What holds for all images at once, in plain words; see ``certify.DatasetStatement``."""
    if found is None or found['images'] == 1:
        return ''
    failed, such = ('k or more wrong certificates', 'so many') if counted else (
        'a wrong certificate', 'one'
    )  # fmt: skip
    copies, most = '', ''
    if found['distinct'] < found['images']:
        copies = f' ({found["distinct"]} of them differ; equal ones fail together)'
    if found['failures']:
        most = (
            f', and at most {found["failures"]} with a probability of at least '
            f'{AtMost(found["confidence"]):g}'
        )
    return (
        f'All {found["images"]} {word}s{copies} together: with a probability of at least '
        f'{AtMost(found["all_hold"]):.4g}, none has {failed}. The number of {word}s that have '
        f'{such} is at most {AtLeast(found["expected_failures"]):.4g} on average{most}.'
    )


def _claims(shared: Mapping[str, Any], kind: str, word: str) -> str:
    """How certificate and joint radius go together; empty where there are not both."""
    if kind != 'certificate' or not {'alpha', 'joint_radius'} <= shared.keys():
        return ''
    alpha = shared['alpha']
    each = f'with probability {AtMost(1 - alpha):g} per {word}, by itself'
    return (
        f'Certificate and joint radius are two claims. What is certified holds {each}. The joint '
        f'radii of all {shared["component_type"]}s hold at once, {each}. Whoever relies on both '
        f'has to add their error bounds: both hold with probability {AtMost(1 - 2 * alpha):g}.'
    )


def _axis(shared: Mapping[str, Any]) -> str:
    """Norm and unit of radii."""
    return ', '.join(filter(None, (shared.get('norm'), shared.get('unit'))))


def _classes(summary: Mapping[str, Any], sure: str) -> dict[str, Any]:
    """The table by class: its columns, and its rows by name."""
    per_class = summary['per_class']
    columns = {
        key: name.replace('certified', sure)
        for key, name in CLASS_COLUMNS.items()
        if any(value is not None for value in per_class.get(key, ()))
    }
    if not columns:
        return {'columns': [], 'rows': []}
    names = summary['classes'] or [f'class {i}' for i in range(len(per_class['certIoU']))]
    rows = [(name, [per_class[key][i] for key in columns]) for i, name in enumerate(names)]
    return {'columns': ['class', *columns.values()], 'rows': rows}


def _facts(results: ResultsFolder) -> dict[str, str]:
    """What was certified, how and with what."""
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
        f'{results.word}s': str(results.summary['images']),
        'attack set': shared.get('attack_set', f'another one for each {results.word}'),
        'perturbation': ': '.join(filter(None, perturbation)),
        'its parameters': _listed({k: v for k, v in parameters.items() if not isinstance(v, dict)}),
        'test': _listed(test),
        'space': shared.get('certified_space', ''),
        'model': _listed({key: value for key, value in model.items() if value is not None}),
        'versions': _listed(versions),
    }
    return {name: text for name, text in facts.items() if text}


def _listed(values: Mapping[str, Any]) -> str:
    return ', '.join(f'{key} {_in_words(value)}' for key, value in values.items())


def _in_words(value: Any) -> str:
    """A JSON value without Python's punctuation."""
    if isinstance(value, dict):
        return f'({_listed({key: one for key, one in value.items() if one is not None})})'
    return ' '.join(map(_in_words, value)) if isinstance(value, list) else str(value)


def _extremes(entries: Sequence[Mapping[str, Any]], number: int = 3) -> dict[str, list[Any]]:
    """The worst and the best images: place, entry and score of each; none of one image alone."""
    if len(entries) < 2:
        return {}
    place = {entry['name']: index for index, entry in enumerate(entries)}
    ordered = ranked(entries)
    number = min(number, len(ordered) // 2)
    sides = {'Worst': ordered[:number], 'Best': ordered[::-1][:number]}
    return {
        word: [(place[entry['name']], entry, score(entry)) for entry in side]
        for word, side in sides.items()
    }


def _shown(shown: int, total: int, word: str) -> str:
    if shown == total:
        return f'All {total} {word}s.' if total != 1 else f'One {word}.'
    return (
        f'{shown} of {total} {word}s, from the worst to the best in even steps. All figures above '
        f'are of all {word}s.'
    )


def _curve(curve: RadiusCurve, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Certified accuracy and mIoU over the joint radius: places in a picture."""
    shared, rows = summary['certificate'], curve.rows()
    width, height, left, right, bottom = 640, 300, 50, 25, 40
    largest = rows[-1]['radius']

    def place(radius: float, value: float) -> tuple[float, float]:
        across = left + radius / largest * (width - left - right)
        return round(across, 1), round(10 + (1 - value) * (height - bottom - 10), 1)

    def points(key: str) -> str:
        # What holds at one radius holds at all smaller ones, and says nothing of larger ones.
        steps = [place(rows[0]['radius'], rows[0][key])]
        for row in rows[1:]:
            x, y = place(row['radius'], row[key])
            steps += [(steps[-1][0], y), (x, y)]
        return ' '.join(f'{x},{y}' for x, y in steps)

    point = None
    if shared.get('kind') != 'estimate' and shared.get('radius', np.inf) <= largest:
        point = place(shared['radius'], summary['rates']['certAcc'])
    return {
        'width': width,
        'height': height,
        'left': left,
        'right': width - right,
        'largest': f'{largest:.3g}',
        'marks': [
            (*place(largest * step / 5, step / 5), f'{largest * step / 5:.3g}', f'{step / 5:.1f}')
            for step in range(6)
        ],
        'below': place(0, 0)[1] + 16,
        'lines': {key: points(key) for key in ('certAcc', 'mIoU')},
        'point': point,
        'axis': _axis(shared),
        'confidence': f'{AtMost(1 - shared["alpha"]):g}',
    }
