"""Certifies the CamVid models at all settings of the README's table.

Each setting is one run of ``tools/test.py`` in a work folder of its own; runs that were
interrupted continue from their votes. At the end the results are gathered in one JSON file, from
which ``benchmarks/update_readme.py`` makes the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import machine

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / 'configs' / 'camvid'
RESULTS = ROOT / 'benchmarks' / 'results' / 'camvid.json'

MODELS = {
    'noise': 'fast-scnn_noise-s0.25-3k_camvid-360x480/iter_3000.pth',
    'clean': 'fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth',
}
"""Models by the noise of their training, and their checkpoints in the work folder."""


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
    parser.add_argument('--work-dirs', type=Path, default=ROOT / 'work_dirs')
    parser.add_argument('--only', nargs='+', help='names of settings to run')
    parser.add_argument('--gather', action='store_true', help='run nothing, gather the results')
    return parser.parse_args()


def main() -> int:
    """Runs what is missing and gathers the results."""
    args = parse_args()
    for setting in SETTINGS:
        if not args.gather and (not args.only or setting.name in args.only):
            certify(setting, args.work_dirs)
    gather(args.work_dirs)
    return 0


def certify(setting: Setting, work_dirs: Path) -> None:
    """Runs one setting."""
    folder = work_dirs / 'camvid' / setting.name
    subprocess.run(
        [
            sys.executable,
            str(ROOT / 'tools' / 'test.py'),
            str(setting.config),
            str(work_dirs / MODELS[setting.model]),
            f'--work-dir={folder}',
            '--cfg-options',
            f'smoothing.sigma={setting.sigma}',
            f'smoothing.scales={setting.scale}',
        ],
        cwd=ROOT,
        check=True,
    )


def gather(work_dirs: Path) -> None:
    """Writes the results of all finished settings into one file."""
    rows = []
    for setting in SETTINGS:
        folder = work_dirs / 'camvid' / setting.name
        summary = folder / 'certified' / 'summary.json'
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
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({'machine': machine(gpu=True), 'rows': rows}, indent=1) + '\n')
    print(f'wrote {RESULTS.relative_to(ROOT)}: {len(rows)} of {len(SETTINGS)} settings')


if __name__ == '__main__':
    sys.exit(main())
