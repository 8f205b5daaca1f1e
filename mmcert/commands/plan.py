"""Says what a config's ``smoothing`` can certify at best, and how long it takes, before it is run.

Without a checkpoint: what each procedure can certify with the configured draws, and the smallest n
for a wanted tau. With one, it times a few passes and says how long the data set takes. Fails where
a run would be refused, or could certify nothing on any of the inputs that were looked at.
"""

from __future__ import annotations

import argparse

from mmcert.cli import (
    UsageError,
    add_cfg_options,
    check_checkpoint,
    command,
    load_config,
    tool_parser,
)

COMMON_TAUS = [0.6, 0.75, 0.85, 0.95, 0.99]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='path of an mmengine config with `smoothing`')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file, to time a few passes')
    parser.add_argument(
        '--tau', type=float, nargs='+', default=COMMON_TAUS, help='values to plan for'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='plan for images of this size; loads no data',
    )
    parser.add_argument('--images', type=int, default=1, help='with --size: how many')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Prints the plan; fails where it would be refused."""
    args = parse_args()
    cfg = load_config(args)
    if cfg.get('smoothing') is None:
        raise UsageError(
            'the config has no `smoothing`; add for example sigma=0.25 with --cfg-options '
            'smoothing.sigma=0.25'
        )
    if args.size and args.checkpoint:
        raise UsageError('give either a checkpoint to time on the data, or --size')
    if args.checkpoint:
        check_checkpoint(args.checkpoint)
    from mmcert.engine import check_smoothing

    check_smoothing(cfg)
    from mmcert.engine.planner import PlannedRun, report

    if args.size:
        height, width = args.size
        run = PlannedRun.of_size(cfg, height, width, args.images)
    else:
        run = PlannedRun.of_data(cfg, args.checkpoint)
    print(report(run, args.tau))
    run.require_feasible()
    return 0
