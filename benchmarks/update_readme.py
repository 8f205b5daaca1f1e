"""Writes the tables of the README and of the docs from the JSON files of the benchmarks."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
PAGES = (
    ROOT / 'README.md',
    ROOT / 'docs' / 'statistics.md',
    ROOT / 'docs' / 'sampling.md',
    ROOT / 'docs' / 'point-clouds.md',
    ROOT / 'docs' / 'semantic-transformations.md',
    ROOT / 'docs' / 'model-zoo.md',
)


def camvid(results: dict) -> list[str]:
    """For each scale the base models, then the certified settings."""
    rows = [('scale', 'model', 'sigma', 'tau', 'n', 'radius', 'accuracy', 'mIoU', 'abstain')]
    described = set()
    for row in results['rows']:
        rates, settings = row['rates'], row['certificate']
        name = f'trained {"with noise 0.25" if row["model"] == "noise" else "on clean images"}'
        if (row['scale'], row['model']) not in described:
            described.add((row['scale'], row['model']))
            base = (rates['base_aAcc'], rates['base_mIoU'])
            rows.append((f'{row["scale"]:g}', f'base, {name}', *'----', *map(_two, base), '-'))
        rows.append(
            (
                f'{row["scale"]:g}',
                f'certified, {name}',
                f'{row["sigma"]:g}',
                f'{settings["tau"]:g}',
                str(settings['n']),
                f'{settings["radius"]:.3f}',
                _two(rates['certAcc']),
                _two(rates['mIoU']),
                f'{100 * rates["abstain"]:.0f} %',
            )
        )
    settings = results['rows'][0]['certificate']
    return [
        *_table(rows),
        '',
        f'{results["rows"][0]["images"]} test images, n0 = {settings["n0"]}, alpha = '
        f'{settings["alpha"]:g} per image, procedure {settings["procedure"]}, '
        f'seed {settings["seed"]}, computed on {_machine(results)}.',
    ]


def procedures(results: dict) -> list[str]:
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
                _percent(rates['abstain']),
                _percent(rates['certAcc']),
                _percent(rates['mIoU']),
                _percent(rates['worst_mIoU']),
                _percent(rates.get('CIG')),
            )
        )
    images = {row['setting']: row['images'] for row in results['rows']}
    return [
        *_table(rows),
        '',
        f'CamVid test images ({", ".join(f"{name}: {count}" for name, count in images.items())}), '
        'Fast-SCNN trained with noise 0.25, sigma = 0.25, n0 = 10, alpha = '
        f'{results["alpha"]:g} per image, seed 0, computed on {_machine(results)}. '
        'All rows of one number of passes see the same votes. CIG is the certified information '
        'gain with the hierarchy `camvid`. For k-FWER, k - 1 certificates of each image are taken '
        'away from accuracy and mIoU where it hurts most.',
    ]


def statistics_speed(results: dict) -> list[str]:
    """Times and memory of the statistics."""
    rows = [('task', 'time', 'memory beside the votes')]
    for row in results['rows']:
        memory = f'{row["peak_bytes_per_component"]:.1f} bytes per component'
        rows.append((row['task'], f'{row["ms"]:.0f} ms', memory))
    loop = results['loop']
    rows.append(
        (
            "a loop of SciPy tests and statsmodels' Holm "
            f'(timed on {loop["timed_components"]:,} components, scaled up)',
            f'{loop["seconds"]:.0f} s, {loop["ratio"]:,.0f} times p-values and Holm',
            '-',
        )
    )
    return [
        *_table(rows),
        '',
        f'{results["components"]:,} components (drawn votes), n = {results["n"]}, one core of '
        f'{_machine(results)}.',
    ]


def audit(results: dict) -> list[str]:
    """The worst finding of each method."""
    findings = results['findings']
    rows = [('method', 'meant to hold', 'worst oracle', 'families failed', '99.9 % interval', '')]
    for name in dict.fromkeys(row['method'] for row in findings):
        worst = max((row for row in findings if row['method'] == name), key=lambda row: row['low'])
        rows.append(
            (
                name,
                'yes' if worst['valid'] else 'no',
                worst['oracle'],
                f'{worst["broken"] / worst["families"]:.4f} (alpha {worst["alpha"]:g})',
                f'{worst["low"]:.4f} to {worst["high"]:.4f}',
                'exposed' if worst['low'] > worst['alpha'] else '',
            )
        )
    return [
        *_table(rows),
        '',
        f'{results["families"]:,} families for each method and each of '
        f'{len({row["oracle"] for row in findings})} oracles (a tenth for the bootstrap), seed '
        f'{results["seed"]}.',
    ]


def sampling_speed(results: dict) -> list[str]:
    """Certification beside bare passes and beside a naive pipeline; memory and scaling."""
    found = results['overhead']
    rows = [
        (
            'model', 'weights', 'batch', 'bare pass', 'certified', 'ratio', 'range',
            'labels, by reference',
        )
    ]  # fmt: skip
    for row in found['rows']:
        parts = row['parts_ms_per_draw']
        reference = parts['labels by the reference (not part of it)']
        rows.append(
            (
                row['model'],
                row['weights'],
                str(row['batch_size']),
                f'{row["bare_ms_per_draw"]:.1f} ms',
                f'{row["ours_ms_per_draw"]:.1f} ms',
                f'{row["ratio"]:.2f}',
                f'{min(row["ratios"]):.2f} to {max(row["ratios"]):.2f}',
                f'{parts["labels"]:.1f} ms; {reference:.1f} ms',
            )
        )
    lines = [
        *_table(rows),
        '',
        'Per draw: wall time of one image, from pixels to stored votes and certificate, divided by '
        f'n0 + n = {found["n0"] + found["n"]} draws, beside bare passes to logits in the same run '
        f'(medians of {len(found["rows"][0]["ratios"])}). {found["size"][0]} x {found["size"][1]} '
        f'pixels, {found["classes"]} classes, {found["image"]}. '
        'Random weights make label maps of specks, the worst case for reading labels.',
        '',
        'What a draw of the first model takes, each part by itself: '
        + ', '.join(
            f'{name} {value:.2f} ms'
            for name, value in found['rows'][0]['parts_ms_per_draw'].items()
            if 'not part' not in name
        )
        + '.',
    ]
    for row in results['naive']['rows']:
        steps = row['breakdown_seconds']
        lines += [
            '',
            f'A naive pipeline ({row["model"]}; noise by NumPy, full-size logits, all label maps '
            'kept, a binomial test per pixel in one process, as the public implementation of '
            f'SegCertify does, rewritten) takes {row["naive_seconds"]:.0f} s for the same image, '
            f'{row["ratio"]:.1f} times as long as mmcert ({row["ours_seconds"]:.2f} s): '
            + ', '.join(f'{name} {value:.1f} s' for name, value in steps.items())
            + f'. Its sampling alone takes {row["ratio_without_tests"]:.1f} times as long.',
        ]
    memory, scaling = results['memory'], results['scaling']
    above = ', '.join(
        f'{row["above_bare_bytes_per_component"]:.0f} (n = {row["n"]})'
        for row in memory['rows'][1:]
    )
    lines += [
        '',
        'Peak memory of the process above that of bare passes, in bytes per pixel: '
        f'{above} (below 0: the allocator varies by that much); one batch of '
        f'{memory["batch_size"]} images of {memory["size"][0]} x {memory["size"][1]} takes '
        f'{memory["batch_bytes_per_component"]:.0f}. Time grows as n to the power of '
        f'{scaling["n"]["exponent"]:.2f} and as pixels to the power of '
        f'{scaling["pixels"]["exponent"]:.2f} (plain model, two decades each).',
        '',
        f'Computed on {_machine(found)}, {found["threads"]} threads, torch {found["torch"]}.',
    ]
    return lines


def gpu_check(results: dict) -> list[str]:
    """Certified draws beside bare passes on a GPU, a row for each model and size."""
    found = {(row['model'], tuple(row['size']), row['precision']): row for row in results['rows']}
    if not found:
        return ['Not measured: no GPU was at hand.']
    kinds = ('fp32', 'bf16', 'fp16')
    rows = [
        (
            'model', 'image', *(f'ratio, {kind}' for kind in kinds),
            *(f'draws/s, {kind}' for kind in kinds), 'memory, fp32', 'above bare passes',
        )
    ]  # fmt: skip
    for name, size in dict.fromkeys((name, size) for name, size, _ in found):
        mine = [found.get((name, size, kind)) for kind in kinds]
        plain = mine[0] or {}
        rows.append(
            (
                name,
                f'{size[0]} x {size[1]}',
                *(f'{row["ratio"]:.3f}' if row else '-' for row in mine),
                *(
                    f'{row["draws_per_second"]:.0f} (batch {row["batch_size"]})' if row else '-'
                    for row in mine
                ),
                _bytes(plain.get('ours_bytes_per_pixel_and_draw')),
                _bytes(plain.get('above_bare_bytes_per_pixel')),
            )
        )
    about, tests = results['about'], results['tests']
    versions = ', '.join(f'{name} {value}' for name, value in about['versions'].items() if value)
    outcomes = [test['outcome'] for test in tests]
    lines = [
        *_table(rows),
        '',
        'Ratio: time of a certified draw in the estimation stage over that of a bare pass to '
        "logits, at the batch size that 'auto' settled on, taken in turn in one run (medians of "
        f'{len(results["rows"][0]["ratios"])}). Random weights, {results["image"]}. Memory: peak '
        'while sampling without the weights, in bytes per pixel and draw of a batch; above that of '
        'bare passes at the same batch size, in bytes per pixel of the image.',
    ]
    if results['parts']:
        lines += ['', 'What a draw takes, each part by itself:', '']
        lines += _table(_parts_of(results['parts']))
    lines += [
        '',
        f'Computed on {about["device"]} ({versions}; TF32 for convolutions '
        f'{"on" if about["tf32"]["convolutions"] else "off"}, for matrix products '
        f'{"on" if about["tf32"]["matrix_products"] else "off"}). Tests of devices in the same '
        f'run: {outcomes.count("passed")} passed, {outcomes.count("failed")} failed, '
        f'{outcomes.count("skipped")} skipped.',
    ]
    return lines


def _parts_of(parts: list[dict]) -> list[tuple[str, ...]]:
    """Shares of the parts, a row for each case."""
    names = [name for name in parts[0]['ms_per_draw'] if 'not part' not in name]
    rows = [('model', 'image', 'precision', *names)]
    for row in parts:
        values = [row['ms_per_draw'][name] for name in names]
        shares = (f'{100 * value / sum(values):.1f} %' for value in values)
        size = f'{row["size"][0]} x {row["size"][1]}'
        rows.append((row['model'], size, row['precision'], *shares))
    return rows


def _bytes(value: float | None) -> str:
    return '-' if value is None else f'{value:.0f}'


def point_ops(results: dict) -> list[str]:
    """The operators' shares of two models' forward passes."""
    names = list(results['models'][0]['shares'])
    rows = [('model', 'forward pass', *names)]
    for row in results['models']:
        shares = (f'{100 * row["shares"][name]:.0f} %' for name in names)
        rows.append((row['model'], f'{row["seconds"]:.2f} s', *shares))
    return [
        *_table(rows),
        '',
        f"{results['clouds']} clouds of {results['points']} points, mmdetection3d's models with "
        f'random weights, {results["threads"]} thread(s), {_machine(results)}: '
        '`benchmarks/point_ops.py`.',
    ]


def part_shapes(results: dict) -> list[str]:
    """Certified accuracy of synthetic shapes by noise level, normals, draws and threshold."""
    chosen = [row for row in results['rows'] if row['procedure'] == 'holm']
    sharper = {
        (row['sigma'], row['normals'], row['n'], row['tau']): row
        for row in results['rows']
        if row['procedure'] == 'ordered_holm'
    }
    rows = [
        (
            'sigma', 'normals', 'n', 'tau', 'radius', 'shapes', 'base accuracy',
            'certified accuracy', 'part mIoU', 'abstain', 'by ordered_holm', 's per shape',
        )
    ]  # fmt: skip
    for row in chosen:
        other = sharper[row['sigma'], row['normals'], row['n'], row['tau']]
        rows.append(
            (
                f'{row["sigma"]:g}',
                'yes' if row['normals'] else 'no',
                str(row['n']),
                f'{row["tau"]:g}',
                f'{row["radius"]:.3f}',
                str(row['shapes']),
                _two(row['base_aAcc']),
                _two(row['certAcc']),
                _two(row['certified_instance_mIoU']),
                f'{100 * row["abstain"]:.0f} %',
                f'{_two(other["certAcc"])}, {100 * other["abstain"]:.0f} %',
                f'{row["seconds_per_shape"]:.1f}',
            )
        )
    first = chosen[0]
    speed = ''
    if ratio := results.get('ratio'):
        speed = (
            f'A shape takes {ratio["median"]:.2f} times as long as n0 + n bare forward passes in '
            f'batches of the same size ({ratio["least"]:.2f} to {ratio["most"]:.2f}, measured in '
            'turn in one process). '
        )
    return [
        *_table(rows),
        '',
        f'Synthetic shapes of {first["points"]} points, n0 = {first["n0"]}, alpha = '
        f'{first["alpha"]:g} per shape, procedure holm with selection holdout, as in the paper; '
        'the column "by ordered_holm" has certified accuracy and abstention of the recommended '
        f'procedure from the same votes. {speed}A part that is nowhere counts as IoU 1. Computed '
        f'on {_machine(results)}, {first["threads"]} thread a run, beside other work on the same '
        'machine.',
    ]


def part_attack(results: dict) -> list[str]:
    """What attacks within the radius do to certified points."""
    rows = [('attack', 'shapes', 'certified points', 'below half of the draws', 'broken')]
    names = list(dict.fromkeys(row['attack'] for row in results['rows']))
    for name in names:
        mine = [row for row in results['rows'] if row['attack'] == name]
        sums = (str(sum(row[key] for row in mine)) for key in ('certified', 'changed', 'broken'))
        rows.append((name, str(len(mine)), *sums))
    return [
        *_table(rows),
        '',
        f'Attacks of l2 norm {results["radius"]:.3f} (the certified radius, sigma = '
        f'{results["sigma"]:g}, tau = {results["tau"]:g}) on synthetic shapes, '
        f'{results["steps"]} gradient steps of {results["gradient_draws"]} draws each; '
        f'{results["new_draws"]} new draws at each attacked cloud. "Broken": the class has less '
        'than half of the probability beyond doubt (binomial test).',
    ]


def semantic(results: dict) -> list[str]:
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
                _two(rates['certAcc']),
                _two(rates['mIoU']),
                f'{100 * rates["abstain"]:.0f} %',
                _two(rates['smoothed_aAcc']),
                _two(rates['base_aAcc']),
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
        *_table(rows),
        '',
        f'{". ".join(said)}. Enumeration: the vanilla model, without smoothing, was run at every '
        'parameter of the finite set, and a pixel counts if it is right at all of them and on the '
        'clean image: complete, without draws or alpha, and only for these parameters. '
        'tau: the median over the images, and the range. "Base, '
        'clean": the base model without smoothing on clean images; those of surrogates are trained '
        'on what surrogates make, and not for that. Computed on '
        f'{_machine(results)}.',
    ]


def _verified_by_enumeration(row: dict) -> list[tuple[str, ...]]:
    """What the vanilla model withstands of a finite attack set, each parameter being looked at."""
    attack = row['attack']
    if attack is None or row['certificate'].get('attack', {}).get('mode') != 'finite':
        return []
    assert len(attack['values']) == len(row['certificate']['attack']['values'])
    attacked, clean = (
        _two(attack[how]['vanilla'] / attack['labelled']) for how in ('attacked', 'clean')
    )
    return [('enumeration, vanilla model', _attack_set(row), '-', attacked, '-', '-', '-', clean)]


def _certified_by(row: dict) -> str:
    if row['name'].startswith('gsmooth'):
        return 'surrogate'
    return 'slices' if 'slices' in row['certificate'] else 'directly'


def semantic_attack(results: dict) -> list[str]:
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
                *(_two(count / attack['labelled']) for count in counts),
                f'{attack["in_order"]} of {attack["images"]}',
                *(f'{attack[key]:,}' for key in ('certified', 'doubtful', 'broken')),
            )
        )
    how = results['attack']
    return [
        *_table(rows),
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


def semantic_reach(results: dict) -> list[str]:
    """Certified accuracy of attack sets that grow value by value, from the same votes."""
    rows = [('attack set', 'certified accuracy')]
    for row in results['rows']:
        for words, right in row['attack']['reach'].items() if row['attack'] else ():
            rows.append((words, _two(right / row['attack']['labelled'])))
    return [
        *_table(rows),
        '',
        'From the votes of the table above, each row valid by itself: the draws do not depend on '
        'the attack set, only the threshold does.',
    ]


def semantic_noise(results: dict) -> list[str]:
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
                *(f'{_two(c["rates"]["certAcc"])} (tau {c["tau"]["median"]:.3f})' for c in cells),
            )
        )
    one = results['noise'][0]
    return [
        *_table(rows),
        '',
        f'{_attack_set(one)}, {one["images"]} test images; one surrogate and one base model, which '
        f'was trained at sigma1 = {one["trained"]["sigma1"]:g} and sigma2 = '
        f'{one["trained"]["sigma2"]:g}; in brackets the median threshold.',
    ]


def semantic_laws(results: dict) -> list[str]:
    """Certified accuracy by the law of a blur's variance."""
    if not results['laws']:
        return []
    rows = [('law of the variance', 'scale', 'certified accuracy', 'abstain', 'smoothed accuracy')]
    for row in results['laws']:
        (scale,) = (v for k, v in row['law'].items() if k not in ('type', 'one_sided'))
        rates = row['rates']
        rows.append(
            (
                row['law']['type'], f'{scale:.2f}', _two(rates['certAcc']),
                f'{100 * rates["abstain"]:.0f} %', _two(rates['smoothed_aAcc']),
            )
        )  # fmt: skip
    one = results['laws'][0]
    return [
        *_table(rows),
        '',
        f'Gaussian blur certified directly at tau = {one["certificate"]["tau"]:g}, every law '
        f'scaled to the same radius, a variance of {one["certificate"]["radius"]:.2f} pixels^2; '
        f'{one["images"]} test images, one base model, trained with the exponential law.',
    ]


def semantic_corruptions(results: dict) -> list[str]:
    """Accuracy at severities of the corruption benchmark."""
    models = ('vanilla', 'base', 'smoothed')
    rows = [('transformation', 'model', 'clean', *(f'severity {s}' for s in range(1, 6)))]
    for row in results['rows']:
        for model in models if row['corruptions'] else ():
            values = (_two(severity[model]) for severity in row['corruptions'])
            rows.append((row['name'].partition('-')[2], model, *values))
    if len(rows) == 1:
        return []
    return [
        *_table(rows),
        '',
        f'Pixel accuracy on {results["corruptions"]["images"]} test images; lengths of the '
        'severities scaled to the size of the images. "Base" sees the image itself and is trained '
        'on what the surrogate makes of it; '
        f'"smoothed" is the majority of {results["corruptions"]["draws"]} draws.',
    ]


def model_zoo(results: dict) -> list[str]:
    """One config of each family of mmsegmentation: labels against the model's own, and sampling."""
    rows = [
        (
            'family',
            'config',
            'labels from',
            "equal to the model's own",
            'random numbers',
            'certified',
        )
    ]
    ran = [row for row in results['rows'] if 'labels' in row]
    for row in results['rows']:
        name = Path(row['config']).stem
        if row not in ran:
            why = row['kind'] if row['kind'] != 'segmentor' else row['missing'].replace('|', ' ')
            rows.append((row['family'], name, '-', '-', '-', f'no: {why}'))
            continue
        size = '' if row['size'] == results['size'] else ' ({} x {})'.format(*row['size'])
        drawn = 'yes' if row['random'] else '-'
        if row['passes_differ']:
            drawn += f'; two passes of the stock model differ at {row["passes_differ"]:,}'
        slides = ' (slide inference)' if row['mode'] == 'slide' else ''
        rows.append(
            (
                row['family'],
                name,
                'logits' if row['fast'] else f'`predict`{slides}',
                f'{row["labels"] - row["unequal"]:,} of {row["labels"]:,}{size}',
                drawn,
                'yes' if row['certificate'] == 'certificate' else row['certificate'],
            )
        )
    equal = sum(row['unequal'] == 0 for row in ran)
    odd = [f'{row["family"]}: {row["hits_differ"]:,}' for row in ran if row['hits_differ']]
    plain = [row['family'] for row in ran if row['classes'] == 1]
    small, large = results['batches']
    installed = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    height, width = results['size']
    return [
        *_table(rows),
        '',
        f'{len(results["rows"])} families, of which {len(ran)} ran; in {equal} of these all labels '
        f"equal those of the model's own `predict`, {sum(row['fast'] for row in ran)} of them read "
        f'from logits. One image of {height} x {width} pixels (a larger one where the table says '
        f'so) with noise {results["sigma"]:g}, random weights; n0 = {results["n0"]}, n = '
        f'{results["n"]} draws in batches of {small} and of {large}. Pixels whose votes differ '
        f'between the two: {", ".join(odd) or "none"}. Label maps of a single class, which say '
        f'less: {", ".join(plain) or "none"}.',
        '',
        f'{installed}; {_machine(results)}, beside other work: '
        f'{sum(row["seconds"] for row in results["rows"]) / 60:.0f} minutes.',
    ]


def _attack_set(row: dict) -> str:
    """The attack set, or what the radius buys, in words."""
    settings = row['certificate']
    if 'attack' in settings:
        return str(settings['attack_set'])
    if 'slices' in settings:
        name = settings['parameters']['transformation']['type']
        return f'{name} from {settings["low"]:g} to {settings["high"]:g} ({settings["unit_of_xi"]})'
    return str(settings['words']).split(' changes the class')[0].removeprefix('no ')


TABLES: dict[str, Callable[..., list[str]]] = {
    'camvid': camvid,
    'procedures': procedures,
    'statistics_speed': statistics_speed,
    'audit': audit,
    'sampling_speed': sampling_speed,
    'gpu_check': gpu_check,
    'point_ops': point_ops,
    'part_shapes': part_shapes,
    'part_attack': part_attack,
    'semantic': semantic,
    'semantic:attack': semantic_attack,
    'semantic:reach': semantic_reach,
    'semantic:noise': semantic_noise,
    'semantic:laws': semantic_laws,
    'semantic:corruptions': semantic_corruptions,
    'model_zoo': model_zoo,
}
"""What makes each table, by its name in the pages: that of its JSON file, up to a colon."""


def updated(text: str) -> str:
    """A page with its tables made anew."""
    for name, make in TABLES.items():
        begin, end = f'<!-- {name} table: begin -->', f'<!-- {name} table: end -->'
        file = RESULTS / f'{name.partition(":")[0]}.json'
        if begin in text and file.exists():
            lines = make(json.loads(file.read_text()))
            content = '\n'.join([begin, *lines, end])
            pattern = f'{re.escape(begin)}.*?{re.escape(end)}'
            text = re.sub(pattern, lambda _, new=content: new, text, flags=re.DOTALL)
    return text


def main() -> int:
    """Rewrites the pages, or with --check says whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args()
    stale = 0
    for page in PAGES:
        text = page.read_text()
        fresh = updated(text)
        stale += text != fresh
        if not args.check:
            page.write_text(fresh)
    return int(args.check and stale > 0)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows in Markdown, the first one being the headings."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    lines.insert(1, '|' + ' --- |' * len(rows[0]))
    return lines


def _machine(results: dict) -> str:
    machine = results['machine']
    gpu = f'one {machine["gpu"]}' if 'gpu' in machine else 'without a GPU'
    return f'{machine["processor"]}, {machine["cores"]} cores, {gpu}'


def _two(value: float) -> str:
    return f'{value:.2f}'


def _percent(value: float | None) -> str:
    return '-' if value is None or value != value else f'{100 * value:.2f} %'


if __name__ == '__main__':
    sys.exit(main())
