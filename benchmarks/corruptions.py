"""CamVid models under the 15 common corruptions, with a denoiser, with noise, beside certificates.

Runs ``tools/corruptions.py`` on each setting in a work folder of its own; an interrupted run
continues. Models and denoiser are trained before, by the commands of ``configs/camvid/README.md``,
``configs/denoisers/README.md`` and ``configs/semantic/README.md``; what is not there is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study import (
    IMAGES,
    ROOT,
    WORK_DIRS,
    Results,
    machine,
    on_machine,
    percent,
    read_results,
    run_tool,
    table,
    write_results,
)

DENOISER = 'denoisers/unet_stability-s0.25_camvid-360x480/denoiser.pth'
POOLED = 'noise-pooled8-s0.1_fast-scnn_camvid-180x240'
JPEG = (25, 18, 15, 10, 7)
"""Qualities of the severities of JPEG."""


@dataclass(frozen=True)
class Setting:
    """One run of the tool.

    Attributes:
        name (str): Of its work folder.
        config (str): In ``configs``.
        checkpoint (str): In the work folder.
        denoised (bool): Whether the denoiser is needed.
        options (tuple[str, ...]): Of the tool.
        overrides (tuple[str, ...]): Of the config.
    """

    name: str
    config: str
    checkpoint: str
    denoised: bool = False
    options: tuple[str, ...] = ()
    overrides: tuple[str, ...] = field(default=())


SETTINGS = [
    Setting(
        'clean', 'camvid/denoised-s0.25-n100_fast-scnn_camvid-360x480.py',
        'fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth', denoised=True,
    ),
    Setting(
        'noise', 'camvid/denoised-s0.25-n100_fast-scnn_camvid-360x480.py',
        'fast-scnn_noise-s0.25-scale0.5-300_camvid-360x480/iter_300.pth',
        overrides=('smoothing.denoiser=None',),
    ),
    Setting(
        'pooled', f'semantic/{POOLED}.py', f'{POOLED}/iter_1200.pth', options=('all',),
        overrides=('smoothing.n=1000', 'smoothing.n0=50'),
    ),
    Setting(
        'jpeg', 'semantic/cells-jpeg_fast-scnn_camvid-180x240.py', f'{POOLED}/iter_1200.pth',
        options=('jpeg_compression',),
        overrides=(f'smoothing.perturbation.values={list(JPEG)}'.replace(' ', ''),),
    ),
]  # fmt: skip
COLUMNS = {
    ('clean', 'base'): 'clean: base',
    ('clean', 'denoised'): 'denoised',
    ('clean', 'smoothed'): 'denoised and smoothed',
    ('noise', 'base'): 'noise: base',
    ('noise', 'smoothed'): 'smoothed',
}
"""What is compared, by setting and model, and the headings."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--images', type=int, default=10, help='test images, evenly spaced')
    parser.add_argument('--draws', type=int, default=10)
    parser.add_argument('--severities', type=int, nargs='+', default=[1, 3, 5])
    parser.add_argument('--only', nargs='+', help='names of settings to run')
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
    """Runs the tool, if what it takes was trained."""
    weights, denoiser = args.work_dirs / setting.checkpoint, args.work_dirs / DENOISER
    if missing := [
        path for path in (weights, denoiser)[: 1 + setting.denoised] if not path.exists()
    ]:
        print(f'{setting.name}: {missing[0]} is not there')
        return
    overrides = [*setting.overrides]
    if setting.denoised:
        overrides.append(f'smoothing.denoiser.checkpoint={denoiser}')
    run_tool(
        'corruptions', ROOT / 'configs' / setting.config, weights,
        '--work-dir', args.work_dirs / 'corruptions' / setting.name, '--limit', args.images,
        '--draws', args.draws, '--severities', *args.severities,
        *(('--corruptions', *setting.options) if setting.options else ()),
        *(('--cfg-options', *overrides) if overrides else ()),
    )  # fmt: skip


def gather(work_dirs: Path) -> None:
    """Writes the newest results of each setting into one file, and copies the curves.

    Of a setting that was not run in these work folders, the file keeps what it has.
    """
    found: dict[str, Any] = dict(read_results('corruptions').get('settings', {}))
    for setting in SETTINGS:
        folder = work_dirs / 'corruptions' / setting.name / 'certified'
        summaries = list(folder.glob('corruptions-*/summary.json'))
        if not summaries:
            print(f'not run yet: {setting.name}')
            continue
        newest = max(summaries, key=lambda path: path.stat().st_mtime)
        found[setting.name] = json.loads(newest.read_text())
        if setting.name == 'pooled':
            shutil.copy(newest.with_name('corruptions.png'), IMAGES / 'corruptions.png')
    content = {'machine': machine(gpu=True), 'settings': found}
    write_results('corruptions', content, f'{len(found)} of {len(SETTINGS)} settings')


def drops(results: Results) -> list[str]:
    """The relative drop of the mIoU of each model under each corruption."""
    found = results.get('settings', {})
    columns = {key: heading for key, heading in COLUMNS.items() if key[0] in found}
    if not columns:
        return ['Not measured yet.']
    first = next(iter(columns))[0]
    rows = [('', *columns.values())]
    clean = (f'{found[name]["clean"][model]["mIoU"]:.3f}' for name, model in columns)
    rows.append(('mIoU of clean images', *clean))
    for place, corruption in enumerate(found[first]['corruptions']):
        values = (
            percent(found[name]['corruptions'][place]['mean'][model]['drop'])
            for name, model in columns
        )
        rows.append((f'`{corruption["corruption"]}`', *values))
    rows.append(('mean', *(percent(found[name]['mean'][model]['drop']) for name, model in columns)))
    settings = found[first]['settings']
    return [
        *table(rows),
        '',
        f'{settings["inputs"]} CamVid test images of 360 x 480, severities '
        f'{", ".join(map(str, settings["severities"]))} (of noise up to 3), {settings["draws"]} '
        'draws of each prediction of a smoothed model, sigma = 0.25. "clean" was trained on clean '
        f'images, "noise" with noise. Computed on {on_machine(results)}.',
    ]


def bounds(results: Results) -> list[str]:
    """Where certificates cover a corruption, and what they prove of it."""
    found = {
        name: summary
        for name, summary in results.get('settings', {}).items()
        if name in ('pooled', 'jpeg')
    }
    if not found:
        return ['Not measured yet.']
    rows = [
        (
            'certificates', 'corruption', 'severity', 'images covered', 'accuracy: smoothed',
            'at least', 'mIoU: smoothed', 'at least',
        )
    ]  # fmt: skip
    kinds = {'pooled': 'l2, noise on means', 'jpeg': 'every JPEG quality of the severities'}
    for name, summary in found.items():
        for corruption in summary['corruptions']:
            for entry in corruption['severities']:
                if not (bound := entry['certified']):
                    continue
                rates, total = entry['rates']['smoothed'], summary['settings']['inputs']
                pairs = (
                    f'{value[rate]:.3f}'
                    for rate in ('accuracy', 'mIoU')
                    for value in (rates, bound)
                )
                rows.append(
                    (
                        kinds[name], f'`{corruption["corruption"]}`', str(entry['severity']),
                        f'{bound["inputs"]} of {total}', *pairs,
                    )
                )  # fmt: skip
    settings = next(iter(found.values()))['settings']
    broken = sum(len(summary['broken']) for summary in found.values())
    alpha = settings['certified']['alpha']
    return [
        *table(rows),
        '',
        f'{settings["inputs"]} CamVid test images of 180 x 240, noise on means of 8 x 8 pixels '
        f'(sigma = 0.1), n = 1000 (JPEG: 500), alpha = {alpha:g} per image, corruption and '
        f'severity; {settings["draws"]} draws of each prediction. Certificates broken: {broken}. '
        f'Computed on {on_machine(results)}.',
    ]


TABLES = {'corruptions': drops, 'corruptions:bounds': bounds}

if __name__ == '__main__':
    sys.exit(main())
