"""Accuracy and mIoU of a model, and of its smoothed version, under common corruptions.

Prints a table, and writes it with the figures and one small curve for each corruption. The relative
drop of the mIoU is that of the SegFormer paper. Where a certificate of the clean input provably
covers a corrupted one, a lower bound stands beside it. A certified component that loses its class
there beyond doubt is reported, with exit code 1.
"""

from __future__ import annotations

import argparse

from mmcert.cli import command, interrupted, tool_parser
from mmcert.commands.source import add_source, source_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        '--corruptions',
        nargs='+',
        default=['common'],
        metavar='NAME',
        help='names, categories (noise, blur, weather, digital) or groups (common, extra, all, '
        'cityscapes-c) (common)',
    )
    parser.add_argument(
        '--severities', nargs='+', type=int, default=[1, 2, 3, 4, 5], metavar='SEVERITY',
        help='of the five (1 2 3 4 5)',
    )  # fmt: skip
    parser.add_argument(
        '--compare', nargs='+', metavar='NAME',
        help='of base, smoothed, denoised (all that there are)',
    )  # fmt: skip
    parser.add_argument(
        '--draws', type=int, default=100, help='of each prediction of the smoothed model (100)'
    )
    parser.add_argument(
        '--normals', action='store_true', help='columns 3 to 5 of clouds are normals'
    )
    parser.add_argument(
        '--seed', type=int, default=0,
        help='of corruptions and draws; with --model of those of votes too (0)',
    )  # fmt: skip
    add_source(parser, own=('seed',))
    return parser.parse_args(argv)


@command
def main() -> int:
    """Corrupts, and prints and stores the results."""
    args = parse_args()
    from mmcert.runs.corrupting import CorruptionOptions, check_corruptions, report

    options = CorruptionOptions(
        corruptions=tuple(args.corruptions),
        severities=tuple(sorted(set(args.severities))),
        models=None if args.compare is None else tuple(args.compare),
        draws=args.draws,
        normals=args.normals,
        seed=args.seed,
    )
    try:
        source = source_of(args, lambda plan: check_corruptions(plan, options), seed=True)
        return int(report(source, options, args.limit))
    except KeyboardInterrupt:
        return interrupted()
