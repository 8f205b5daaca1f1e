"""Times the certification of an image beside the bare model, and beside a naive pipeline.

Every figure is a ratio within one run. Sections:

* ``overhead``: wall time of certifying one image over that of its n0 + n bare forward passes to
  logits, at the same batch size; with what the time goes into.
* ``naive``: the same beside a pipeline that works as the public implementation of SegCertify does.
* ``memory``: peak memory while sampling, beside the model's own.
* ``scaling``: time over n and over pixels, with a plot.

``--models plain`` needs torch, NumPy, SciPy and this repository's ``mmcert`` alone (``memory`` and
``scaling`` always do), so it can be carried to any machine: ``PYTHONPATH=. python
benchmarks/sampling_speed.py overhead --models plain --device cuda --size 1024 2048``.
"""

from __future__ import annotations

import argparse
import sys

from segmentors import CONFIGS
from study import Results, on_machine, table

SECTIONS = ('overhead', 'naive', 'memory', 'scaling')


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('section', choices=[*SECTIONS, 'peak'])
    parser.add_argument('--models', nargs='+', default=['plain'], choices=['plain', *CONFIGS])
    parser.add_argument('--checkpoint', help='for fast_scnn; weights are random without')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--size', type=int, nargs=2, default=[360, 480], metavar=('H', 'W'))
    parser.add_argument('--draws', type=int, nargs=2, default=[10, 100], metavar=('N0', 'N'))
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument(
        '--batch-sizes', type=int, nargs='+', help='for overhead: several, in place of one'
    )
    parser.add_argument('--repetitions', type=int, default=5)
    parser.add_argument('--default-malloc', action='store_true', help="keep glibc's own thresholds")
    parser.add_argument('--n', type=int, default=64, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Times one section and stores what it found."""
    args = parse_args()

    import sampling_sections

    sampling_sections.run(args)
    return 0


def render(results: Results) -> list[str]:
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
        *table(rows),
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
        f'Computed on {on_machine(found)}, {found["threads"]} threads, torch {found["torch"]}.',
    ]
    return lines


TABLES = {'sampling_speed': render}

if __name__ == '__main__':
    sys.exit(main())
