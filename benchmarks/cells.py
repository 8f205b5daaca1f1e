"""Attack sets in cells on CamVid at half its size, beside surrogates and slices.

One base model, trained with noise on means of 8 x 8 pixels, is certified against all attack sets of
``semantic.py``: intervals where the parameter is continuous. Each step runs what is missing, as in
``semantic.py``:

* ``data`` and ``train``: CamVid at 180 x 240, the vanilla model, and the base model.
* ``certify``: ``tools/test.py`` on the test images, with pictures.
* ``attack``: all certified pixels, right or wrong, face every attack of ``semantic.py``.
* ``radius``: the same with ``extra_radius``.
* ``pictures``: one certified image of each transformation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from study import WORK_DIRS, Results, machine, on_machine, percent, read_results, table, two
from study import write_results as write

STEPS = ('data', 'train', 'certify', 'attack', 'radius', 'pictures')
EXTRA_RADIUS = 0.1


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
    chosen = [n for n in names if args.only is None or n.removeprefix('cells-') in args.only]
    study = semantic_study.Study(args.work_dirs, args.images)
    for step in [] if args.gather else args.steps:
        if step == 'data':
            study.data()
            continue
        if step == 'pictures':
            study.sheet('cells', semantic_study.CELLS)
            continue
        for name in chosen:
            if step == 'radius':
                study.certify(name, f'smoothing.perturbation.extra_radius={EXTRA_RADIUS}')
            else:
                getattr(study, step)(name)
    rows = [row for name in names for row in study.row(name)]
    content = {'machine': machine(), **semantic_study.settings(), 'rows': rows}
    write('cells', content, f'{len(rows)} rows')
    return 0


def certified(results: Results) -> list[str]:
    """What cells certify beside what surrogates and slices did."""
    earlier = {row['name']: row for row in read_results('semantic')['rows']}
    rows = [
        (
            'attack set', 'cells: certified', 'mIoU', 'abstain', 'draws', 'smoothed: clean',
            'attacked', 'enumeration, vanilla', 'before, by', 'attack set', 'certified', 'mIoU',
            'draws',
        )
    ]  # fmt: skip
    for row in results['rows']:
        transformation = row['name'].removeprefix('cells-')
        rates, attack = row['rates'], row['attack']
        attacked = vanilla = '-'
        if attack is not None:
            attacked = two(attack['attacked']['smoothed'] / attack['labelled'])
            if 'in {' in row['certificate']['attack_set']:
                vanilla = two(attack['attacked']['vanilla'] / attack['labelled'])
        before = ('-',) * 5
        for kind in ('direct', 'gsmooth'):
            if found := earlier.get(f'{kind}-{transformation}'):
                before = _before(kind, found)
        rows.append(
            (
                _attack_set(row), two(rates['certAcc']), two(rates['mIoU']),
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
            rows.append((row['name'].removeprefix('cells-'), str(len(found['values'])), *counts))
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
    words = str(row['certificate']['description']).partition(', the smoothed model')[0]
    return words.removeprefix('under every ')


def _draws(row: dict) -> str:
    return f'{row["certificate"]["n0"] + row["certificate"]["n"]:,}'


TABLES = {'cells:certified': certified, 'cells:attack': attack}

if __name__ == '__main__':
    sys.exit(main())
