"""Certifies the images of a folder under a model of any library, without a config.

With a config of OpenMMLab and a checkpoint in place of options it certifies the config's test data,
as ``mmcert test`` does.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

from mmcert.cli import UsageError, add_limit, at_least, command, interrupted, tool_parser
from mmcert.commands.source import (
    add_model,
    check_folders,
    files_of,
    logger,
    settings_of,
    smoothed_of,
)

EXAMPLE = """
example:
  mmcert certify --model hf:segformer --images photos --labels labels --sigma 0.25

With a config of OpenMMLab: mmcert certify CONFIG CHECKPOINT. It takes the options of mmcert test.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.epilog = EXAMPLE
    add_limit(parser)
    add_model(parser, required=True)
    _add_results(parser.add_argument_group('what it writes'))
    _add_processes(parser.add_argument_group('several jobs and processes'))
    return parser.parse_args(argv)


def _add_results(group: Any) -> None:
    group.add_argument(
        '--draw-every',
        type=at_least(0),
        default=0,
        help='draw every so-many-th image (0: none)',
    )
    group.add_argument(
        '--confidence', choices=['pictures', 'arrays', 'none'], default='pictures',
        help='what is written of the confidence in each pixel (pictures)',
    )  # fmt: skip


def _add_processes(group: Any) -> None:
    group.add_argument('--shard', help='certify a part: 3/16 is the third of each 16 images (all)')
    group.add_argument(
        '--launcher', choices=['none', 'pytorch'], default='none',
        help='pytorch for processes that torchrun has started (none)',
    )  # fmt: skip
    group.add_argument(
        '--distribute', choices=['images', 'draws'], default='images',
        help='what they share: the images, or the draws of each (images)',
    )  # fmt: skip


@command
def main() -> int:
    """Certifies, and prints and stores the results."""
    words = sys.argv[1:]
    if words and not words[0].startswith('-'):
        if Path(words[0]).is_dir():
            raise UsageError(
                f'{words[0]} is a folder, and no config: a model of any library is given by '
                f'--model, such as --model hf:{words[0]}'
            )
        from mmcert.commands import test

        return test.run(certify=True)
    args = parse_args()
    check_folders(args)
    try:
        with processes_of(args) as processes:
            return certify(args, processes)
    except KeyboardInterrupt:
        return interrupted()


def processes_of(args: argparse.Namespace) -> Any:
    """The processes of the job, as a context."""
    if args.launcher == 'none':
        # Without torch: much can still be refused.
        if int(os.environ.get('WORLD_SIZE', '1')) > 1 and 'LOCAL_RANK' in os.environ:
            raise UsageError('torchrun has started several processes: give --launcher pytorch')
        return contextlib.nullcontext()
    from mmcert.sampling.process_group import joined_processes

    return joined_processes()


def certify(args: argparse.Namespace, processes: Any) -> int:
    """Certifies as one of some processes; None is this one alone."""
    from mmcert.integrations.folder import FolderRun
    from mmcert.integrations.smoothed import image_plan
    from mmcert.votes.shards import Shard

    settings = settings_of(args)
    plan = image_plan(settings)
    shard = None if args.shard is None else Shard.parse(args.shard)
    files = files_of(args, args.limit)
    plan.require_feasible(math.prod(files[0].header.size))
    if shard is not None:
        shard.positions(len(files))  # Refuses more shards than images.
    is_first = processes is None or processes.rank == 0
    log = logger(logging.INFO if is_first else logging.WARNING)
    of_draws = processes if args.distribute == 'draws' else None
    smoothed = smoothed_of(args, settings, log, of_draws)
    run = FolderRun(
        smoothed,
        files,
        log,
        draw_every=args.draw_every,
        confidence=None if args.confidence == 'none' else args.confidence,
        reduce_labels=bool(args.reduce_labels) or smoothed.model.reduces_labels,
        processes=processes if of_draws is None else None,
        shard=shard,
        images=args.images,
    )
    summary = run.run()
    if not is_first:
        return 0
    print(summary.describe())
    print(f'certificates, votes and figures: {run.out_dir}')
    if shard is None:
        print(f'to look at them: mmcert report {run.out_dir}')
    else:
        print(f'once all {shard.count} shards have run: mmcert merge {run.out_dir}')
    return 0
