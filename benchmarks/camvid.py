"""Certifies the CamVid models at all settings of the table of CamVid results.

Each setting is one run of ``tools/test.py`` in a work folder of its own; an interrupted run
continues from its votes. At the end all results go into one JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from study import (
    ROOT,
    WORK_DIRS,
    Results,
    machine,
    on_machine,
    percent,
    run_tool,
    table,
    two,
    write_results,
)

CONFIGS = ROOT / 'configs' / 'camvid'
MODELS = {
    'noise': 'fast-scnn_noise-s0.25-3k_camvid-360x480/iter_3000.pth',
    'clean': 'fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth',
}
"""Checkpoints in the work folder, by the training images."""


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    model: str
    scale: float
    sigma: float
    n: int

    @property
    def name(self) -> str:
        """Name of the setting's work folder."""
        return f'{self.model}-scale{self.scale}-s{self.sigma}-n{self.n}'

    @property
    def config(self) -> Path:
        """The config, which fixes tau by n."""
        return CONFIGS / f'segcertify-s0.25-n{self.n}_fast-scnn_camvid-360x480.py'


SETTINGS = [
    *(
        Setting('noise', scale, sigma, n)
        for scale in (1.0, 0.5)
        for sigma, n in ((0.25, 100), (0.33, 100), (0.5, 100), (0.25, 500))
    ),
    Setting('clean', 1.0, 0.25, 100),
]


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--only', nargs='+', help='names of settings to run')
    parser.add_argument('--gather', action='store_true', help='run nothing, gather the results')
    return parser.parse_args()


def main() -> int:
    """Runs what is missing and gathers the results."""
    args = parse_args()
    for setting in SETTINGS:
        if not args.gather and (not args.only or setting.name in args.only):
            run_tool(
                'test', setting.config, args.work_dirs / MODELS[setting.model],
                f'--work-dir={args.work_dirs / "camvid" / setting.name}', '--cfg-options',
                f'smoothing.sigma={setting.sigma}', f'smoothing.scales={setting.scale}',
            )  # fmt: skip
    gather(args.work_dirs)
    return 0


def gather(work_dirs: Path) -> None:
    """Writes the results of all finished settings into one file."""
    rows = []
    for setting in SETTINGS:
        summary = work_dirs / 'camvid' / setting.name / 'certified' / 'summary.json'
        if not summary.exists():
            print(f'not run yet: {setting.name}')
            continue
        content = json.loads(summary.read_text())
        rows.append(
            {
                'name': setting.name,
                'model': setting.model,
                'scale': setting.scale,
                'sigma': setting.sigma,
                'images': content['images'],
                'certificate': content['certificate'],
                'rates': content['rates'],
            }
        )
    content = {'machine': machine(gpu=True), 'rows': rows}
    write_results('camvid', content, f'{len(rows)} of {len(SETTINGS)} settings')


def render(results: Results) -> list[str]:
    """For each scale the base models, then the certified settings."""
    rows = [('scale', 'model', 'sigma', 'tau', 'n', 'radius', 'accuracy', 'mIoU', 'abstain')]
    described = set()
    for row in results['rows']:
        rates, settings = row['rates'], row['certificate']
        name = f'trained {"with noise 0.25" if row["model"] == "noise" else "on clean images"}'
        scale = f'{row["scale"]:g}'
        if (scale, row['model']) not in described:
            described.add((scale, row['model']))
            base = (two(rates['base_aAcc']), two(rates['base_mIoU']))
            rows.append((scale, f'base, {name}', *'----', *base, '-'))
        rows.append(
            (
                scale, f'certified, {name}', f'{row["sigma"]:g}', f'{settings["tau"]:g}',
                str(settings['n']), f'{settings["radius"]:.3f}', two(rates['certAcc']),
                two(rates['mIoU']), percent(rates['abstain']),
            )
        )  # fmt: skip
    settings = results['rows'][0]['certificate']
    return [
        *table(rows),
        '',
        f'{results["rows"][0]["images"]} test images, n0 = {settings["n0"]}, alpha = '
        f'{settings["alpha"]:g} per image, procedure {settings["procedure"]}, '
        f'seed {settings["seed"]}, computed on {on_machine(results)}.',
    ]


TABLES = {'camvid': render}

if __name__ == '__main__':
    sys.exit(main())
