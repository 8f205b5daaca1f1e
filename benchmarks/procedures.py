"""Compares the procedures and selections on CamVid votes, at equal numbers of model passes.

Samples the votes through ``tools/test.py`` (an interrupted run continues), then certifies them with
every combination. Writes the README's picture, too. Every combination sees the same votes:
'holdout' spends n0 passes on the guess and tests on n, 'same_draws' tests on all n0 + n.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from mmcert.certify import CertifySettings

CONFIGS = ROOT / 'configs' / 'camvid'
CHECKPOINT = 'fast-scnn_noise-s0.25-3k_camvid-360x480/iter_3000.pth'
TEST_IMAGES = 233
ALPHA = 1e-3
K_SHARE = 0.001


@dataclass(frozen=True)
class Setting:
    """One run of the sampler.

    Attributes:
        name (str): Name of its work folder.
        config (str): Beginning of the config's name.
        images (int): Evenly spaced test images.
        taus (tuple[float, ...]): Thresholds to answer.
        options (tuple[str, ...]): Of ``smoothing``.
    """

    name: str
    config: str
    images: int
    taus: tuple[float, ...]
    options: tuple[str, ...]


FIXED = 'segcertify-s0.25-n100'
SETTINGS = (
    Setting('n100', FIXED, 50, (0.6, 0.75, 0.85, 0.9), ('hierarchy=camvid',)),
    Setting('n500', FIXED, 16, (0.75, 0.9, 0.95), ('n=500', 'tau=0.95', 'hierarchy=camvid')),
    Setting('auto', 'recommended-s0.25-auto', 16, (0.75,), ()),
)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--only', nargs='+', help='names of settings to sample')
    return parser.parse_args()


def main() -> int:
    """Samples what is missing, answers all combinations, and writes them."""
    args = parse_args()
    rows = []
    for setting in SETTINGS:
        folder = args.work_dirs / 'procedures' / setting.name
        if not args.only or setting.name in args.only:
            sample(setting, folder, args.work_dirs / CHECKPOINT)
        rows += answer(setting, folder)
    content = {'machine': machine(gpu=True), 'alpha': ALPHA, 'rows': rows}
    write_results('procedures', content)
    draw(args.work_dirs / 'procedures' / SETTINGS[0].name)
    return 0


def sample(setting: Setting, folder: Path, checkpoint: Path) -> None:
    """Samples the votes of one setting, as far as they are not there."""
    indices = evenly_spaced(setting.images, TEST_IMAGES, endpoint=False)
    run_tool(
        'test', next(CONFIGS.glob(f'{setting.config}*.py')), checkpoint, f'--work-dir={folder}',
        '--cfg-options', chosen_inputs(indices),
        *(f'smoothing.{option}' for option in setting.options),
    )  # fmt: skip


def answer(setting: Setting, folder: Path) -> list[dict[str, Any]]:
    """All combinations on the votes of one setting."""
    from mmcert.certify import Hierarchy
    from mmcert.perturbations import from_spec
    from mmcert.votes import read_folder
    from mmcert.votes.recertify import Task, evaluate

    found = sorted((folder / 'certified').glob('votes-*'))
    if not found:
        print(f'not run yet: {setting.name}')
        return []
    records = list(read_folder(found[-1]))
    provenance, sampling = records[0].meta['provenance'], records[0].meta['sampling']
    hierarchy = Hierarchy.from_config('camvid', provenance['classes'])
    settings = [chosen for tau in setting.taus for chosen in combinations(tau)]
    task = Task(provenance['num_classes'], provenance['ignore_index'])
    with_groups = Task(provenance['num_classes'], provenance['ignore_index'], hierarchy)
    plain = evaluate(records, settings, task)
    by_groups = evaluate(records, settings, with_groups)
    perturbation = from_spec(sampling['perturbation'])
    passes = sum(record.votes.n0 + record.votes.n for record in records) / len(records)
    rows = []
    for chosen, counts, grouped in zip(settings, plain, by_groups, strict=True):
        assert grouped.levels is not None
        rates = counts.rates() | grouped.levels.rates(grouped.allowance)
        rows.append(
            {
                'setting': setting.name,
                'images': counts.images,
                **vars(chosen),
                'radius': perturbation.radius(chosen.tau),
                'passes': passes,
                'rates': rates,
            }
        )
        print(
            f'{setting.name:6} tau={chosen.tau:<5} {chosen.procedure:13} {chosen.selection:11} '
            f'{chosen.order:10} abstain {rates["abstain"]:.4f}  certAcc {rates["certAcc"]:.4f}'
        )
    return rows


def draw(folder: Path) -> None:
    """Puts the picture of the first test image, made smaller, where the README shows it."""
    import cv2

    drawn = sorted((folder / 'certified').glob('vis*/*.png'))
    if drawn:
        picture = cv2.imread(str(drawn[0]))
        small = cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(IMAGES / 'camvid.png'), small, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def combinations(tau: float) -> list[CertifySettings]:
    """Every procedure with every selection, and the orders that are allowed; and the default."""
    from mmcert.certify import CertifySettings
    from mmcert.certify.procedures import PROCEDURES

    chosen = []
    for procedure, rule in PROCEDURES.items():
        for selection in ('holdout', 'same_draws'):
            k = K_SHARE if rule.takes_k else None
            orders = ['auto']
            if rule.takes_order:
                orders = ['selection', 'margin'] if selection == 'holdout' else ['margin']
            chosen += [
                CertifySettings(tau, ALPHA, procedure, selection, k, order) for order in orders
            ]
    return [*chosen, CertifySettings(tau, ALPHA)]


def render(results: Results) -> list[str]:
    """Procedures and selections on the same votes."""
    rows = [
        (
            'passes', 'tau', 'procedure', 'selection', 'abstain', 'accuracy', 'mIoU', 'worst mIoU',
            'CIG',
        )
    ]  # fmt: skip
    for row in results['rows']:
        rates = row['rates']
        name = row['procedure'].replace('_', ' ')
        if row['k'] is not None:
            name += f' (k = {100 * row["k"]:g} %)'
        if row['order'] != 'auto':
            name += f', order: {row["order"]}'
        rows.append(
            (
                f'{row["passes"]:.0f}{" (auto)" if row["setting"] == "auto" else ""}',
                f'{row["tau"]:g}',
                name,
                row['selection'].replace('_', ' '),
                percent(rates['abstain'], 2),
                percent(rates['certAcc'], 2),
                percent(rates['mIoU'], 2),
                percent(rates['worst_mIoU'], 2),
                percent(rates.get('CIG'), 2),
            )
        )
    images = {row['setting']: row['images'] for row in results['rows']}
    return [
        *table(rows),
        '',
        f'CamVid test images ({", ".join(f"{name}: {count}" for name, count in images.items())}), '
        'Fast-SCNN trained with noise 0.25, sigma = 0.25, n0 = 10, alpha = '
        f'{results["alpha"]:g} per image, seed 0, computed on {on_machine(results)}. '
        'All rows of one number of passes see the same votes. CIG is the certified information '
        'gain with the hierarchy `camvid`. For k-FWER, k - 1 certificates of each image are taken '
        'away from accuracy and mIoU where it hurts most.',
    ]


TABLES = {'procedures': render}

if __name__ == '__main__':
    sys.exit(main())
