"""Accuracy and mIoU of a model, and of its smoothed version, under common corruptions.

Prints a table, and writes it with the figures and one small curve for each corruption. The relative
drop of the mIoU is that of the SegFormer paper. Where a certificate of the clean input provably
covers a corrupted one, a lower bound stands beside it. A certified component that loses its class
there beyond doubt is reported, with exit code 1.
"""

from __future__ import annotations

import argparse
import sys

from mmcert.cli import (
    UsageError,
    add_run_arguments,
    check_checkpoint,
    command,
    load_run_config,
    tool_parser,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='path of an mmengine config with `smoothing`')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--corruptions',
        nargs='+',
        default=['common'],
        metavar='NAME',
        help='names, categories (noise, blur, weather, digital) or groups (common, extra, all, '
        'cityscapes-c)',
    )
    parser.add_argument(
        '--severities', nargs='+', type=int, default=[1, 2, 3, 4, 5], metavar='SEVERITY'
    )
    parser.add_argument(
        '--models',
        nargs='+',
        metavar='MODEL',
        help='base, smoothed, denoised (by default all that the config has)',
    )
    parser.add_argument('--images', type=int, help='inputs, evenly spaced in the test data')
    parser.add_argument(
        '--draws', type=int, default=100, help='draws of each prediction of the smoothed model'
    )
    parser.add_argument(
        '--normals', action='store_true', help='columns 3 to 5 of clouds are normals'
    )
    parser.add_argument('--seed', type=int, default=0)
    add_run_arguments(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Corrupts, and prints and stores the results."""
    args = parse_args()
    cfg = load_run_config(args)
    if cfg.get('smoothing') is None:
        raise UsageError('the config has no `smoothing`; for example smoothing=dict(sigma=0.25)')
    check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    from mmengine.runner import Runner

    from mmcert.engine.corrupting import CorruptionOptions, report

    options = CorruptionOptions(
        corruptions=tuple(args.corruptions),
        severities=tuple(sorted(set(args.severities))),
        models=None if args.models is None else tuple(args.models),
        draws=args.draws,
        normals=args.normals,
        seed=args.seed,
    )
    runner = Runner.from_cfg(cfg)
    try:
        return int(report(runner, options, args.images))
    except KeyboardInterrupt:
        print('\ninterrupted; the same command continues where this one stopped', file=sys.stderr)
        return 130
