"""Certifies CamVid models behind the denoisers of ``configs/denoisers``, and without one.

Each setting is one run of ``tools/test.py`` in a work folder of its own; an interrupted run
continues from its votes. At the end all results go into one JSON file. Models and denoisers are
trained before, by the commands of ``configs/denoisers/README.md``.
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
    chosen_inputs,
    evenly_spaced,
    machine,
    on_machine,
    percent,
    run_tool,
    table,
    two,
    write_results,
)

CONFIG = ROOT / 'configs/camvid/denoised-s0.25-n100_fast-scnn_camvid-360x480.py'
TEST_IMAGES = 233
DENOISERS = {
    'none': ('-', ''),
    'mse': ('mean squared error', 'unet_mse-s0.25_camvid-360x480'),
    'stability': ('stability objective', 'unet_stability-s0.25_camvid-360x480'),
}
"""What each was trained by, and its work folder."""
MODELS = {
    'clean': 'fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth',
    'noise': 'fast-scnn_noise-s0.25-scale0.5-300_camvid-360x480/iter_300.pth',
}
"""Checkpoints in the work folder, by the training images."""


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    model: str
    denoiser: str

    @property
    def name(self) -> str:
        """Name of the setting's work folder."""
        return f'{self.model}-{self.denoiser}'


SETTINGS = [Setting(model, denoiser) for model in MODELS for denoiser in DENOISERS]


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--only', nargs='+', help='names of settings to run, such as clean-none')
    parser.add_argument('--images', type=int, default=12, help='test images, evenly spaced')
    parser.add_argument('--gather', action='store_true', help='run nothing, gather the results')
    return parser.parse_args()


def main() -> int:
    """Runs what can be run and gathers the results."""
    args = parse_args()
    for setting in SETTINGS:
        if not args.gather and (not args.only or setting.name in args.only):
            run(setting, args)
    gather(args.work_dirs)
    return 0


def run(setting: Setting, args: argparse.Namespace) -> None:
    """Certifies the images under a setting, if what it takes was trained."""
    weights, (_, folder) = args.work_dirs / MODELS[setting.model], DENOISERS[setting.denoiser]
    file = args.work_dirs / 'denoisers' / folder / 'denoiser.pth'
    if missing := [path for path in (weights, file)[: 1 + bool(folder)] if not path.exists()]:
        print(f'{setting.name}: {missing[0]} is not there')
        return
    indices = evenly_spaced(args.images, TEST_IMAGES, endpoint=False)
    denoiser = f'.checkpoint={file}' if folder else '=None'
    run_tool(
        'test', CONFIG, weights, f'--work-dir={args.work_dirs / "denoised" / setting.name}',
        '--cfg-options', chosen_inputs(indices), f'smoothing.denoiser{denoiser}',
        'smoothing.draw_every=0',
    )  # fmt: skip


def gather(work_dirs: Path) -> None:
    """Writes the results of all finished settings into one file."""
    rows = []
    for setting in SETTINGS:
        summary = work_dirs / 'denoised' / setting.name / 'certified' / 'summary.json'
        if not summary.exists():
            print(f'not run yet: {setting.name}')
            continue
        content = json.loads(summary.read_text())
        kept = ('images', 'certificate', 'rates')
        rows.append({**vars(setting), **{key: content[key] for key in kept}})
    content = {'machine': machine(gpu=True), 'rows': rows}
    write_results('denoisers', content, f'{len(rows)} of {len(SETTINGS)} settings')


def render(results: Results) -> list[str]:
    """Each model with and without a denoiser."""
    if not results:
        return ['Not measured yet.']
    rows = [('base model', 'denoiser trained by', 'radius', 'base accuracy', 'smoothed accuracy',
             'certified accuracy', 'certified mIoU', 'abstain')]  # fmt: skip
    for row in results['rows']:
        rates = row['rates']
        trained = 'with noise 0.25' if row['model'] == 'noise' else 'on clean images'
        rows.append(
            (
                f'trained {trained}', DENOISERS[row['denoiser']][0],
                f'{row["certificate"]["radius"]:.3f}', two(rates['base_aAcc']),
                two(rates['smoothed_aAcc']), two(rates['certAcc']), two(rates['mIoU']),
                percent(rates['abstain']),
            )
        )  # fmt: skip
    first = results['rows'][0]
    settings = first['certificate']
    return [
        *table(rows),
        '',
        f'{first["images"]} test images, tau = {settings["tau"]:g}, n0 = {settings["n0"]}, n = '
        f'{settings["n"]}, alpha = {settings["alpha"]:g} per image, procedure '
        f'{settings["procedure"]}, scale {settings["scales"][0]:g}, computed on '
        f'{on_machine(results)}.',
    ]


TABLES = {'denoisers': render}

if __name__ == '__main__':
    sys.exit(main())
