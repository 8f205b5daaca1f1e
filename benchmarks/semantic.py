"""Semantic transformations on CamVid at half its size: GSmooth's tables.

Each step runs what is missing and leaves its results in the work folder, so an interrupted run
continues. The steps:

* ``data``: CamVid at 180 x 240 (images by area, labels by nearest pixel).
* ``train``: the vanilla model, and for each transformation its surrogate and its base model.
* ``certify``: ``tools/test.py`` on the test images, with pictures.
* ``attack``: the worst parameter of the attack set, by exhaustive search, against the vanilla
  model, the base model and the smoothed one. All certified pixels, right or wrong, face every
  attack. A pixel is doubtful if its class has no majority of the draws, and broken if a binomial
  test of new draws shows that its class has less than half of the probability.
* ``corruptions``: accuracy at severities 1 to 5, vanilla, base and smoothed.
* ``noise``: the scales sigma1 and sigma2, one model.
* ``laws``: distributions of the parameter of Gaussian blur, certified directly.
* ``pictures``: one certified image of each transformation, and the noise of images and latents.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from study import WORK_DIRS, Results, machine, on_machine, percent, table, two, write_results

STEPS = ('data', 'train', 'certify', 'attack', 'corruptions', 'noise', 'laws', 'pictures')


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
    parser.add_argument('--steps', nargs='+', choices=STEPS, default=list(STEPS))
    parser.add_argument('--only', nargs='+', default=None, help='names of configs to run')
    parser.add_argument('--images', type=int, default=30)
    parser.add_argument('--gather', action='store_true', help='run nothing, gather the results')
    return parser.parse_args()


def main() -> int:
    """Runs what is missing and gathers the results."""
    args = parse_args()

    import semantic_study

    names = [f'gsmooth-{name}' for name in semantic_study.SURROGATES]
    names += [f'direct-{name}' for name in semantic_study.DIRECT]
    chosen = [name for name in names if args.only is None or name in args.only]
    study = semantic_study.Study(args.work_dirs, args.images)
    for step in [] if args.gather else args.steps:
        if step in ('data', 'noise', 'laws', 'pictures'):
            getattr(study, step)()
            continue
        for name in chosen:
            getattr(study, step)(name)
    rows = [row for name in names for row in study.row(name)]
    content = {'machine': machine(), **semantic_study.settings(), 'rows': rows}
    for step in ('noise', 'laws'):
        path = args.work_dirs / 'semantic' / f'{step}.json'
        content[step] = json.loads(path.read_text()) if path.exists() else []
    write_results('semantic', content, f'{len(rows)} rows')
    return 0


def certified(results: Results) -> list[str]:
    """Certified accuracy of each transformation, at its attack set."""
    rows = [
        (
            'certified by', 'attack set', 'tau', 'certified accuracy', 'certified mIoU', 'abstain',
            'smoothed accuracy', 'base, clean',
        )
    ]  # fmt: skip
    for row in results['rows']:
        if row['certificate']['kind'] != 'certificate':
            raise ValueError(f'{row["name"]} is an estimate, which is in no table of certificates')
        rates, tau = row['rates'], row['tau']
        rows.append(
            (
                _certified_by(row),
                _attack_set(row),
                f'{tau["median"]:.3f}'
                + (
                    f' ({tau["least"]:.3f} to {tau["most"]:.3f})'
                    if tau['least'] < tau['most']
                    else ''
                ),
                two(rates['certAcc']),
                two(rates['mIoU']),
                percent(rates['abstain']),
                two(rates['smoothed_aAcc']),
                two(rates['base_aAcc']),
            )
        )
        rows += _verified_by_enumeration(row)
    groups: dict[str, list[str]] = {}
    for row in results['rows']:
        settings = row['certificate']
        each = f' in each of {settings["slices"]} slices' if 'slices' in settings else ''
        words = (
            f'{row["images"]} test images, n0 = {settings["n0"]}, n = {settings["n"]}{each}, '
            f'alpha = {settings["alpha"]:g} per image, procedure {settings["procedure"]} '
            f'with selection {settings["selection"]}'
        )
        groups.setdefault(words, []).append(_certified_by(row))
    said = [f'{" and ".join(dict.fromkeys(by))}: {words}' for words, by in groups.items()]
    return [
        *table(rows),
        '',
        f'{". ".join(said)}. Enumeration: the vanilla model, without smoothing, was run at every '
        'parameter of the finite set, and a pixel counts if it is right at all of them and on the '
        'clean image: complete, without draws or alpha, and only for these parameters. '
        'tau: the median over the images, and the range. "Base, '
        'clean": the base model without smoothing on clean images; those of surrogates are trained '
        'on what surrogates make, and not for that. Computed on '
        f'{on_machine(results)}.',
    ]


def _verified_by_enumeration(row: dict) -> list[tuple[str, ...]]:
    """What the vanilla model withstands of a finite attack set, each parameter being looked at."""
    attack = row['attack']
    if attack is None or row['certificate'].get('attack', {}).get('mode') != 'finite':
        return []
    assert len(attack['values']) == len(row['certificate']['attack']['values'])
    attacked, clean = (
        two(attack[how]['vanilla'] / attack['labelled']) for how in ('attacked', 'clean')
    )
    return [('enumeration, vanilla model', _attack_set(row), '-', attacked, '-', '-', '-', clean)]


def _certified_by(row: dict) -> str:
    if row['name'].startswith('gsmooth'):
        return 'surrogate'
    return 'slices' if 'slices' in row['certificate'] else 'directly'


def attack(results: Results) -> list[str]:
    """Certified against attacked accuracy, vanilla against smoothed."""
    rows = [
        (
            'transformation', 'parameters tried', 'vanilla: clean', 'attacked', 'smoothed: clean',
            'attacked', 'certified', 'in order', 'certified pixels', 'doubtful', 'broken',
        )
    ]  # fmt: skip
    for row in results['rows']:
        attack = row['attack']
        if attack is None:
            continue
        counts = (
            attack['clean']['vanilla'], attack['attacked']['vanilla'], attack['clean']['smoothed'],
            attack['attacked']['smoothed'], attack['certified_right'],
        )  # fmt: skip
        rows.append(
            (
                f'{row["name"].partition("-")[2]} ({_certified_by(row)})',
                str(len(attack['values'])),
                *(two(count / attack['labelled']) for count in counts),
                f'{attack["in_order"]} of {attack["images"]}',
                *(f'{attack[key]:,}' for key in ('certified', 'doubtful', 'broken')),
            )
        )
    how = results['attack']
    return [
        *table(rows),
        '',
        'Accuracies over the same images. "Attacked": a pixel counts only if it is right on the '
        'clean image and at every parameter that was tried: the whole attack set where it is '
        f'finite, {how["range_points"]} parameters of an interval, the extremes of a box, shifts '
        'on the rim of the disk (the last three are not exhaustive). The smoothed model is the '
        f'majority of {how["draws"]} draws '
        'at each attacked image, and of the n0 selection draws on the clean one (with slices, '
        'in the middle of its slice). "In order": images with certified <= attacked (<= clean by '
        'definition). "Doubtful": certified pixels, right or wrong, '
        'without a majority of these draws at some parameter. "Broken": those of them whose class '
        'has less than half of the probability there beyond doubt (binomial test of '
        f'{how["sure_draws"]:,} new draws, at {how["level"]:g} over all pixels, parameters and '
        'images).',
    ]


def reach(results: Results) -> list[str]:
    """Certified accuracy of attack sets that grow value by value, from the same votes."""
    rows = [('attack set', 'certified accuracy')]
    for row in results['rows']:
        for words, right in row['attack']['reach'].items() if row['attack'] else ():
            share = two(right / row['attack']['labelled'])
            rows.append((_without_repeated_units(words), share))
    return [
        *table(rows),
        '',
        'From the votes of the table above, each row valid by itself: the draws do not depend on '
        'the attack set, only the threshold does.',
    ]


def noise(results: Results) -> list[str]:
    """Certified accuracy by both scales of the noise."""
    found = {(row['sigma1'], row['sigma2']): row for row in results['noise']}
    if not found:
        return []
    sigma1, sigma2 = (sorted({key[i] for key in found}) for i in (0, 1))
    rows = [('certified accuracy', *(f'sigma2 = {value:g}' for value in sigma2))]
    for first in sigma1:
        cells = (found[first, second] for second in sigma2)
        rows.append(
            (
                f'sigma1 = {first:g}',
                *(f'{two(c["rates"]["certAcc"])} (tau {c["tau"]["median"]:.3f})' for c in cells),
            )
        )
    one = results['noise'][0]
    return [
        *table(rows),
        '',
        f'{_attack_set(one)}, {one["images"]} test images; one surrogate and one base model, which '
        f'was trained at sigma1 = {one["trained"]["sigma1"]:g} and sigma2 = '
        f'{one["trained"]["sigma2"]:g}; in brackets the median threshold.',
    ]


def laws(results: Results) -> list[str]:
    """Certified accuracy by the law of a blur's variance."""
    if not results['laws']:
        return []
    rows = [('law of the variance', 'scale', 'certified accuracy', 'abstain', 'smoothed accuracy')]
    for row in results['laws']:
        (scale,) = (v for k, v in row['law'].items() if k not in ('type', 'one_sided'))
        rates = row['rates']
        rows.append(
            (
                row['law']['type'], f'{scale:.2f}', two(rates['certAcc']),
                percent(rates["abstain"]), two(rates['smoothed_aAcc']),
            )
        )  # fmt: skip
    one = results['laws'][0]
    return [
        *table(rows),
        '',
        f'Gaussian blur certified directly at tau = {one["certificate"]["tau"]:g}, every law '
        f'scaled to the same radius, a variance of {one["certificate"]["radius"]:.2f} pixels^2; '
        f'{one["images"]} test images, one base model, trained with the exponential law.',
    ]


def corruptions(results: Results) -> list[str]:
    """Accuracy at severities of the corruption benchmark."""
    models = ('vanilla', 'base', 'smoothed')
    rows = [('transformation', 'model', 'clean', *(f'severity {s}' for s in range(1, 6)))]
    for row in results['rows']:
        for model in models if row['corruptions'] else ():
            values = (two(severity[model]) for severity in row['corruptions'])
            rows.append((row['name'].partition('-')[2], model, *values))
    if len(rows) == 1:
        return []
    return [
        *table(rows),
        '',
        f'Pixel accuracy on {results["corruptions"]["images"]} test images; lengths of the '
        'severities scaled to the size of the images. "Base" sees the image itself and is trained '
        'on what the surrogate makes of it; '
        f'"smoothed" is the majority of {results["corruptions"]["draws"]} draws.',
    ]


def surrogates(results: Results) -> list[str]:
    """What the surrogates do on held-out images."""
    rows = [('surrogate', 'error', 'error under noise', 'displacement', '10 % to 90 % of images')]
    for row in results['rows']:
        if (found := row.get('surrogate')) is None:
            continue
        figures = {key.removeprefix('surrogate/'): value for key, value in found.items()}
        rows.append(
            (
                row['name'].partition('-')[2],
                f'{figures["error"]:.3f}',
                f'{figures["noisy_error"]:.3f}',
                two(figures['displacement_median']),
                f'{two(figures["displacement_q10"])} to {two(figures["displacement_q90"])}',
            )
        )
    return [
        *table(rows),
        '',
        'On held-out validation images. Errors: mean absolute differences from the real '
        'transformation in [0, 1] image units, without the noise of the latent and with it. '
        'Displacement: how far the latent moves over the attack set at most, in standard '
        'deviations of the noise of the training (sigma1 = 0.1, sigma2 = 0.5), the median over '
        'images.',
    ]


def _attack_set(row: dict) -> str:
    """The attack set, or what the radius buys, in words."""
    settings = row['certificate']
    if 'attack' in settings:
        return _without_repeated_units(settings['attack_set'])
    if 'slices' in settings:
        name = settings['parameters']['transformation']['type']
        return f'{name} from {settings["low"]:g} to {settings["high"]:g} ({settings["unit_of_xi"]})'
    return str(settings['description']).split(' changes the class')[0].removeprefix('no ')


def _without_repeated_units(words: str) -> str:
    """An attack set in words; earlier results have a unit that repeats the parameter's name."""
    return re.sub(r'\b(\w+) \(\1\)', r'\1', words)


TABLES = {
    'semantic': certified,
    'semantic:surrogates': surrogates,
    'semantic:attack': attack,
    'semantic:reach': reach,
    'semantic:noise': noise,
    'semantic:laws': laws,
    'semantic:corruptions': corruptions,
}

if __name__ == '__main__':
    sys.exit(main())
