"""l2 attacks on CamVid, beside the certificates of the same images.

Runs ``tools/attack.py`` on the model of the recommended recipe (``benchmarks/recipes.py`` trains
it), with plain cross entropy beside the losses of SEA. The ensemble of an image is the attack of
most harm.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from study import (
    IMAGES,
    ROOT,
    WORK_DIRS,
    Results,
    chosen_inputs,
    evenly_spaced,
    machine,
    on_machine,
    percent,
    run_tool,
    table,
    write_results,
)

CONFIG = ROOT / 'configs' / 'camvid' / 'segcertify-s0.25-n100_fast-scnn_camvid-360x480.py'
RECIPE = 'recipes/consistency-s0.25-scale0.5-10min-seed0'
SCALE, DRAWS = 0.5, 300
SEA = ('masked_ce', 'balanced_ce', 'js', 'spherical')


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--checkpoint', type=Path, help='by default that of the recipe')
    parser.add_argument('--images', type=int, default=50)
    parser.add_argument('--radius', type=float, nargs='+', default=[0.17, 0.34])
    parser.add_argument('--steps', type=int, default=40)
    parser.add_argument('--gather', action='store_true', help='run nothing, gather the results')
    return parser.parse_args()


def main() -> int:
    """Attacks and gathers what happened."""
    args = parse_args()
    recipe = args.work_dirs / RECIPE
    # Beside the certificates of the recipe: their votes are used.
    work = recipe / f'certify-{args.images}'
    if not args.gather:
        run_tool(
            'attack', CONFIG, args.checkpoint or trained(recipe), '--work-dir', work,
            '--radius', *args.radius, '--steps', args.steps,
            '--cfg-options', f'smoothing.scales={SCALE}', f'smoothing.n={DRAWS}',
            chosen_inputs(evenly_spaced(args.images, 233, endpoint=False)),
        )  # fmt: skip
    summaries = (work / 'certified').glob('attacks-*/summary.json')
    newest = max(summaries, key=lambda path: path.stat().st_mtime)
    summary = json.loads(newest.read_text())
    import cv2

    picture = cv2.imread(str(newest.parent / f'00001-l2-{args.radius[-1]:g}.png'))
    cv2.imwrite(str(IMAGES / 'attack.jpg'), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    failures = len(summary['failures'])
    ensemble = worst_of_sea(newest.parent, summary['attack_sets'][-1]['attack_set'])
    content = {'machine': machine(), **summary, 'worst_of_sea': ensemble}
    write_results('attacks', content, f'{failures} broken')
    return int(failures > 0)


def trained(recipe: Path) -> Path:
    """The last checkpoint of the recipe."""
    checkpoints = sorted(
        (recipe / 'train').glob('iter_*.pth'), key=lambda path: path.stat().st_mtime
    )
    if not checkpoints:
        sys.exit(f'there is no model in {recipe}: benchmarks/recipes.py trains it')
    return checkpoints[-1]


def worst_of_sea(folder: Path, attack_set: str) -> dict[str, float]:
    """Accuracy of base and smoothed model under the worst of SEA's losses on each image."""
    right, labelled = {'base': 0, 'smoothed': 0}, 0
    for path in folder.glob(f'[0-9]*-{attack_set.replace(" ", "-")}.json'):
        rows = json.loads(path.read_text())['attacks']
        for model in right:
            right[model] += min(
                row['right'] for row in rows if (row['model'] == model and row['attack'] in SEA)
            )
        labelled += rows[0]['labelled']
    return {model: count / labelled for model, count in right.items()}


def side_by_side(results: Results) -> list[str]:
    """Clean, attacked and certified figures."""
    if not results:
        return []
    rows = [
        (
            'l2 radius', 'rate', 'base: clean', 'attacked', 'smoothed: clean', 'attacked',
            'certified', 'abstain',
        )
    ]  # fmt: skip
    order = ('base_clean', 'base_attacked', 'smoothed_clean', 'smoothed_attacked', 'certified')
    for found in results['attack_sets']:
        rates, radius = found['rates'], found['attack_set'].removeprefix('l2 ')
        abstain = percent(rates['certified']['abstain'], 1)
        for rate, last in (('accuracy', abstain), ('mIoU', '')):
            values = (f'{rates[name][rate]:.3f}' for name in order)
            rows.append((radius, rate, *values, last))
    settings = results['settings']
    alpha, sigma = settings['certified']['alpha'], settings['guarantee']['parameters']['sigma']
    return [
        *table(rows),
        '',
        f'{settings["images"]} CamVid test images of 360 x 480 (the model works at half of that), '
        f'Gaussian noise of sigma {sigma:g}; {settings["steps"]} steps, {settings["draws"]} draws '
        'of each gradient, '
        f'{settings["judged"]} new draws at each attacked image; certificates with alpha = '
        f'{alpha:g} per image and radius. Certificates broken: {len(results["failures"])}. '
        f'Computed on {on_machine(results)}.',
    ]


def losses(results: Results) -> list[str]:
    """Each loss by itself, at the largest radius, beside their ensemble."""
    if not results:
        return []
    found = results['attack_sets'][-1]
    by_name: dict[str, dict[str, Any]] = {'base': {}, 'smoothed': {}}
    for row in found['attacks']:
        by_name[row['model']][row['attack']] = row
    rows = [('attack', 'base accuracy', 'smoothed accuracy', 'certified pixels faced', 'broken')]
    for name, row in by_name['smoothed'].items():
        base = by_name['base'].get(name)
        accuracy = '-' if base is None else f'{base["accuracy"]:.3f}'
        counts = (f'{row[key]:,}' for key in ('certified', 'broken'))
        rows.append((f'`{name}`', accuracy, f'{row["accuracy"]:.3f}', *counts))
    sea = (f'{results["worst_of_sea"][name]:.3f}' for name in ('base', 'smoothed'))
    rows.append(("the worst of SEA's four, by image", *sea, '', ''))
    rates = found['rates']
    ensemble = (f'{rates[f"{name}_attacked"]["accuracy"]:.3f}' for name in ('base', 'smoothed'))
    rows.append(('the worst of all, by image', *ensemble, '', ''))
    return [*table(rows), '', f'At {found["attack_set"]}. `ce` is plain PGD.']


TABLES = {'attacks': side_by_side, 'attacks:losses': losses}

if __name__ == '__main__':
    sys.exit(main())
