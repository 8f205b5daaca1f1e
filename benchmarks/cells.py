"""Attack sets in cells on CamVid at half its size, beside surrogates and slices.

One base model, trained with noise on means of 8 x 8 pixels, is certified against all attack sets of
``semantic.py``: intervals where the parameter is continuous. Each step runs what is missing, as in
``semantic.py``:

* ``data`` and ``train``: CamVid at 180 x 240, the vanilla model, and the base model.
* ``certify``: ``tools/test.py`` on the test images, with pictures.
* ``attack``: all certified pixels, right or wrong, face every attack of ``semantic.py``.
* ``draws``: most of them with more draws.
* ``radius``: the same with ``extra_radius``.
* ``compare``: noise on pixels, on means and on the latent of a surrogate, for a few images.
* ``size``: two attack sets at 360 x 480 pixels, for as many.
* ``pictures``: one certified image of each transformation.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from study import WORK_DIRS, Results, machine, on_machine, percent, read_results, table, two
from study import write_results as write

STEPS = (
    'data', 'train', 'certify', 'attack', 'draws', 'radius', 'compare', 'size', 'pictures',
)  # fmt: skip
SMALLEST = 3


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--steps', nargs='+', choices=STEPS, default=list(STEPS))
    parser.add_argument('--only', nargs='+', default=None, help='transformations to run')
    parser.add_argument('--images', type=int, default=30)
    parser.add_argument('--gather', action='store_true', help='run nothing, gather the results')
    return parser.parse_args()


def main() -> int:
    """Runs what is missing and gathers the results."""
    args = parse_args()

    import semantic_study

    names = [f'cells-{name}' for name in semantic_study.CELLS]
    names += [f'direct-{name}' for name in semantic_study.BESIDE_CELLS]
    chosen = [n for n in names if args.only is None or n.partition('-')[2] in args.only]
    study = semantic_study.Study(args.work_dirs, args.images)
    for step in [] if args.gather else args.steps:
        if step == 'data':
            study.data()
            continue
        if step == 'pictures':
            study.sheet('cells', semantic_study.CELLS)
            continue
        if step == 'compare':
            for config in semantic_study.CELLS_SPACES.values():
                study.train(config)
            study.train('direct-gaussian-blur')
            study.compare()
            continue
        if step == 'size':
            study.enlarge()
            continue
        if step == 'radius':
            study.widen()
            continue
        if step == 'draws':
            study.sample_more([name.partition('-')[2] for name in chosen])
            continue
        for name in chosen:
            getattr(study, step)(name)
    # What is not in the work folder stays as it was found before.
    before = read_results('cells')
    earlier = {row['name']: row for row in before.get('rows', ())}
    rows = [
        row
        for name in names
        for row in list(study.row(name)) or ([earlier[name]] if name in earlier else [])
    ]
    spaces = study.comparison()
    draws = [
        {'name': f'cells-{transformation}', **semantic_study.summary(folder)}
        for transformation, n in semantic_study.CELLS_DRAWS
        if semantic_study.certified_in(folder := study.with_draws(transformation, n))
    ]
    radius = [
        semantic_study.summary(folder)
        for one in itertools.product(semantic_study.CELLS_WIDENED, semantic_study.EXTRA_RADII)
        if semantic_study.certified_in(folder := study.widened(*one))
    ]
    large = [
        row
        for name in semantic_study.CELLS_SIZES
        for row in study.row(f'cells-{name}{semantic_study.LARGE}')
    ]
    content = {
        'machine': machine(),
        **semantic_study.settings(),
        'rows': rows,
        'draws': draws or before.get('draws', []),
        'spaces': spaces if spaces['rows'] else before['spaces'],
        'radius': radius or before['radius'],
        'large': large or before['large'],
    }
    write('cells', content, f'{len(rows)} rows')
    return 0


def certified(results: Results) -> list[str]:
    """What cells certify beside what surrogates and slices did."""
    earlier = {row['name']: row for row in read_results('semantic')['rows']}
    rows = [
        (
            'attack set', 'by', 'certified', 'mIoU', 'abstain', 'draws', 'smoothed: clean',
            'attacked', 'enumeration, vanilla', 'before, by', 'attack set', 'certified', 'mIoU',
            'draws',
        )
    ]  # fmt: skip
    for row in results['rows']:
        kind, _, transformation = row['name'].partition('-')
        rates, attack = row['rates'], row['attack']
        attacked = vanilla = '-'
        if attack is not None:
            attacked = two(attack['attacked']['smoothed'] / attack['labelled'])
            if 'in {' in row['certificate']['attack_set']:
                vanilla = two(attack['attacked']['vanilla'] / attack['labelled'])
        before = ('-',) * 5
        for earlier_kind in ('direct', 'gsmooth'):
            if found := earlier.get(f'{earlier_kind}-{transformation}'):
                before = _before(earlier_kind, found)
        rows.append(
            (
                _attack_set(row), 'directly' if kind == 'direct' else kind,
                two(rates['certAcc']), two(rates['mIoU']),
                percent(rates['abstain']), _draws(row), two(rates['smoothed_aAcc']), attacked,
                vanilla, *before,
            )
        )  # fmt: skip
    settings = results['rows'][0]['certificate']
    return [
        *table(rows),
        '',
        f'{results["rows"][0]["images"]} test images, alpha = {settings["alpha"]:g} per image, '
        f'procedure {settings["procedure"]}. One base model for all rows by cells. "Attacked": '
        'the smoothed model is right on the clean image and at every parameter that was tried, '
        f'all of a finite set, {results["attack"]["range_points"]} of an interval, by the majority '
        f'of {results["attack"]["draws"]} draws. "Enumeration": the same of the vanilla model, '
        'which is a proof for finite sets alone. "Before": the results of surrogates, and of '
        'slices as an earlier version of mmcert had them. Computed on '
        f'{on_machine(results)}.',
    ]


def attack(results: Results) -> list[str]:
    """What the attacks did to certified pixels."""
    rows = [('transformation', 'parameters tried', 'certified pixels', 'doubtful', 'broken')]
    for row in results['rows']:
        if (found := row['attack']) is not None:
            counts = (f'{found[key]:,}' for key in ('certified', 'doubtful', 'broken'))
            rows.append((row['name'].partition('-')[2], str(len(found['values'])), *counts))
    return table(rows)


def more_draws(results: Results) -> list[str]:
    """What more draws add."""
    rows = [('attack set', 'draws', 'certified', 'mIoU', 'abstain', 'smoothed: attacked')]
    usual = {row['name']: row for row in results['rows']}
    for more in results['draws']:
        few = usual[more['name']]
        attack = few['attack']
        for row in (few, more):
            rates = row['rates']
            rows.append(
                (
                    _attack_set(row), _draws(row), f'{rates["certAcc"]:.3f}',
                    f'{rates["mIoU"]:.3f}', percent(rates['abstain']),
                    f'{attack["attacked"]["smoothed"] / attack["labelled"]:.3f}',
                )
            )  # fmt: skip
    return [*table(rows), '', f'{results["draws"][0]["images"]} test images.']


def spaces(results: Results) -> list[str]:
    """What the noise of cells is on, at equal draws."""
    found = results['spaces']
    pixels = found['pixels']
    small = sorted((name for name in pixels if pixels[name]), key=pixels.__getitem__)[:SMALLEST]
    rows = [
        (
            'attack set', 'noise on', 'draws', 'cells', 'path length', 'certified', 'mIoU',
            *(f'IoU of {name}' for name in small), 'smoothed: accuracy', 'mIoU',
        )
    ]  # fmt: skip
    for row in found['rows']:
        rates = row['rates']
        cells, length = (row.get(key) for key in ('cells', 'path_length'))
        rows.append(
            (
                _attack_set(row), row['space'], _draws(row),
                '-' if cells is None else f'{cells:.0f}',
                '-' if length is None else f'{length:.1f}',
                two(rates['certAcc']), two(rates['mIoU']),
                *(two(row['class_ious'][name]) for name in small),
                two(rates['smoothed_aAcc']), two(rates['smoothed_mIoU']),
            )
        )  # fmt: skip
    return [
        *table(rows),
        '',
        f'{found["rows"][0]["images"]} test images. Each row has a base model trained for its '
        'noise. Path length: of the transformed image, in standard deviations of the noise, the '
        'median. '
        f'The {SMALLEST} classes with the fewest pixels in these images. {_of(found["rows"][0])}',
    ]


def extra_radius(results: Results) -> list[str]:
    """What a further l2 perturbation costs."""
    rows = [('attack set', 'extra radius', 'draws', 'certified', 'mIoU', 'abstain')]
    for row in results['radius']:
        rates = row['rates']
        rows.append(
            (
                _attack_set(row), f'{row["certificate"]["parameters"]["extra_radius"]:g}',
                _draws(row), two(rates['certAcc']), two(rates['mIoU']), percent(rates['abstain']),
            )
        )  # fmt: skip
    return [*table(rows), '', f'{results["radius"][0]["images"]} test images.']


def size(results: Results) -> list[str]:
    """How cost grows with the size of the images."""
    rows = [
        (
            'attack set', 'size', 'images', 'draws', 'cells', 'path length', 'certified',
            'smoothed',
        )
    ]  # fmt: skip
    usual = {
        row['certificate']['parameters']['transformation']['type']: row
        for row in results['radius']
        if not row['certificate']['parameters']['extra_radius']
    }
    for row in results['large']:
        name = row['certificate']['parameters']['transformation']['type']
        for found, words in ((usual[name], '180 x 240'), (row, '360 x 480')):
            rows.append(
                (
                    _attack_set(found), words, str(found['images']), _draws(found),
                    f'{found["cells"]:.0f}', f'{found["path_length"]:.1f}',
                    two(found['rates']['certAcc']), two(found['rates']['smoothed_aAcc']),
                )
            )  # fmt: skip
    return table(rows)


def _before(kind: str, row: dict) -> tuple[str, ...]:
    """An earlier result: how, for which attack set, certified accuracy, mIoU and draws."""
    settings, rates = row['certificate'], row['rates']
    slices = settings.get('slices')
    by = 'surrogate' if kind == 'gsmooth' else 'slices' if slices else 'directly'
    words = 'the same' if slices else settings['attack_set'].partition(' in ')[2]
    draws = settings['n0'] + settings['n'] * (slices or 1)
    return by, words, two(rates['certAcc']), two(rates['mIoU']), f'{draws:,}'


def _attack_set(row: dict) -> str:
    words = str(row['certificate']['description'])
    for end in (', the smoothed model', ', followed by', ' changes the class'):
        words = words.partition(end)[0]
    return words.removeprefix('under every ').removeprefix('no ')


def _of(row: dict) -> str:
    settings = row['certificate']
    return f'alpha = {settings["alpha"]:g} per image, procedure {settings["procedure"]}.'


def _draws(row: dict) -> str:
    return f'{row["certificate"]["n0"] + row["certificate"]["n"]:,}'


TABLES = {
    'cells:certified': certified,
    'cells:attack': attack,
    'cells:draws': more_draws,
    'cells:spaces': spaces,
    'cells:radius': extra_radius,
    'cells:size': size,
}

if __name__ == '__main__':
    sys.exit(main())
