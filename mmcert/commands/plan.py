"""Says what settings can certify at best, and how long it takes, before anything is run.

Of a config without a checkpoint, or of ``--sigma`` with ``--size``: what each procedure can certify
with so many draws, and the smallest n for a wanted tau. With a model it times a few passes and says
how long the inputs take. Fails where a run would be refused, or could certify nothing on any of the
inputs that were looked at.
"""

from __future__ import annotations

import argparse
from typing import Any

from mmcert.cli import (
    TO_TEST,
    UsageError,
    add_cfg_options,
    add_config,
    add_limit,
    check_checkpoint,
    command,
    tool_parser,
)
from mmcert.commands.source import (
    add_model,
    folder_source,
    settings_of,
    smoothing_config,
    uses_model,
)

COMMON_TAUS = [0.6, 0.75, 0.85, 0.95, 0.99]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    add_config(parser, optional=True)
    parser.add_argument(
        '--taus', type=float, nargs='+', default=COMMON_TAUS, metavar='TAU',
        help='thresholds to give the smallest n for, beside that of the settings '
        f'({" ".join(map(str, COMMON_TAUS))})',
    )  # fmt: skip
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='plan for images of this size, --limit of them; loads no data and no model',
    )
    add_cfg_options(parser)
    add_limit(parser)
    add_model(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Prints the plan; fails where it would be refused."""
    args = parse_args()
    from mmcert.certify.checks import check_tau

    for tau in args.taus:
        check_tau(tau)
    if args.size and (args.checkpoint or args.model):
        raise UsageError('give either a model to time on its inputs, or --size')
    run = planned(args)
    from mmcert.runs.planner import report

    print(report(run, args.taus))
    run.require_feasible()
    return 0


def planned(args: argparse.Namespace) -> Any:
    """The run that is planned."""
    from mmcert.runs.planner import PlannedRun

    if args.config is None and args.model is None and args.size and args.sigma is not None:
        from mmcert.integrations.smoothed import image_plan

        return PlannedRun.of_size(image_plan(settings_of(args)), args.size, args.limit or 1)
    if args.config is None and args.model is None:
        raise UsageError(
            'give a config, or --model with --images and --sigma, or --sigma with --size'
        )
    if uses_model(args):
        return PlannedRun.of_source(folder_source(args, limit=args.limit))
    if args.checkpoint:
        check_checkpoint(args.checkpoint)
    cfg = smoothing_config(args, () if args.size else TO_TEST)
    cfg.load_from = args.checkpoint
    from mmcert.engine import SmoothingConfig, check_config

    plan = check_config(cfg)
    if args.size:
        plan = plan or SmoothingConfig.from_cfg(dict(cfg.smoothing)).plan()
        return PlannedRun.of_size(plan, args.size, args.limit or 1)
    if args.limit is not None:
        raise UsageError('--limit goes with --size or --model; a config has its own test data')
    from mmcert.engine.source import source_without_traces

    with source_without_traces(cfg) as source:
        return PlannedRun.of_source(source, timed=args.checkpoint is not None)
