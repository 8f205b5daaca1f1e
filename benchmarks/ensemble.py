"""Certifies an ensemble beside its members: U-Nets of the demo, trained from other seeds.

Everything is drawn from seeds, nothing is downloaded. Members that are trained are kept in
work_dirs/ensemble, and so are votes: an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study import (
    WORK_DIRS,
    Results,
    machine,
    on_machine,
    percent,
    run_tool,
    table,
    write_results,
)

CONFIG = 'configs/street_scenes/segcertify-s0.25-n100_unet-tiny_street-scenes-128x192.py'
WORK = WORK_DIRS / 'ensemble'
COLUMNS = ('certAcc', 'mIoU', 'abstain', 'base_aAcc', 'base_mIoU')


def main() -> int:
    """Trains, certifies and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of the members')
    parser.add_argument('--images', type=int, default=60, help='test scenes')
    args = parser.parse_args()
    checkpoints = [trained(seed) for seed in args.seeds]
    together = WORK / 'ensemble.pth'
    run_tool('ensemble', together, '--member', CONFIG, *checkpoints)
    rows: list[dict[str, Any]] = [
        {'model': f'seed {seed}', 'members': 1, **certified(CONFIG, file, args.images)}
        for seed, file in zip(args.seeds, checkpoints, strict=True)
    ]
    found = certified(together.with_suffix('.py'), together, args.images)
    rows.append({'model': 'ensemble', 'members': len(checkpoints), **found})
    write_results('ensemble', {'machine': machine(), 'images': args.images, 'rows': rows})
    return 0


def trained(seed: int) -> Path:
    """The checkpoint of a member."""
    folder = WORK / f'seed{seed}'
    last = folder / 'iter_400.pth'
    if not last.exists():
        options = ['--cfg-options', f'randomness.seed={seed}']
        run_tool('train', CONFIG, '--work-dir', folder, *options)
    return last


def certified(config: str | Path, checkpoint: Path, images: int) -> dict[str, float]:
    """The rates of a model on the test scenes."""
    folder = checkpoint.parent / f'certified-{checkpoint.stem}'
    options = ['--cfg-options', f'test_dataloader.dataset.num_images={images}']
    options.append('smoothing.draw_every=1000')
    run_tool('test', config, checkpoint, '--work-dir', folder, *options)
    summary = json.loads((folder / 'certified/summary.json').read_text())
    return {key: summary['rates'][key] for key in (*COLUMNS, 'radius')}


def render(results: Results) -> list[str]:
    """The table of members and ensemble; nothing before it was measured."""
    if not results:
        return []
    headings = 'model, passes for each draw, radius, certified accuracy, certified mIoU, abstain, '
    headings += 'base accuracy, base mIoU'
    rows: list[Sequence[str]] = [headings.split(', ')]
    for row in results['rows']:
        rates = [f'{row[key]:.3f}' for key in COLUMNS]
        rates[2] = percent(row['abstain'], 1)
        rows.append([row['model'], str(row['members']), f'{row["radius"]:.3f}', *rates])
    note = (
        f'{results["images"]} drawn street scenes, sigma 0.25, tau 0.75, n0 = 10, n = 100, '
        f'alpha = 0.001, on {on_machine(results)}.'
    )
    return [*table(rows), '', note]


TABLES = {'ensemble': render}

if __name__ == '__main__':
    sys.exit(main())
