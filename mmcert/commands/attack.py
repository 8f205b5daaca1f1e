"""Attacks a model and its smoothed version, and holds what they do against the certificates.

l2 attacks go within the radii that are given; ``--attack parameters`` tries the transformations
that the config certifies against. The votes of ``tools/test.py`` in the work folder are used where
there are some. An attack is an upper bound of the robustness, as a certificate is a lower one.
Certified components that lose their class beyond doubt are reported, with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

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
    parser.add_argument('--attack', choices=['l2', 'parameters'], default='l2')
    parser.add_argument('--images', type=int, help='inputs, evenly spaced in the test data')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--judged', type=int, default=100, help='new draws at each attacked input')
    parser.add_argument(
        '--sure', type=int, default=1000, help='further draws where a certificate is in doubt'
    )
    norm = parser.add_argument_group('l2 attacks')
    norm.add_argument('--radius', type=float, nargs='+', help='largest l2 norms')
    norm.add_argument('--losses', nargs='+', metavar='NAME', help='by default ce and those of SEA')
    norm.add_argument('--schedule', choices=['sea', 'fixed'], default='sea')
    norm.add_argument('--steps', type=int, default=40)
    norm.add_argument('--restarts', type=int, default=1)
    norm.add_argument('--draws', type=int, default=8, help='noise draws of each gradient')
    norm.add_argument('--box', action='store_true', help='keep attacked images in [0, 1]')
    norm.add_argument('--target', metavar='CLASS', help='drive components to a class')
    norm.add_argument('--hide', metavar='CLASS', help='make a class unseen')
    parameters = parser.add_argument_group('attacks on parameters')
    parameters.add_argument('--points', type=int, default=9, help='points of a range, at each axis')
    add_run_arguments(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Attacks, and prints and stores the results."""
    args = parse_args()
    cfg = load_run_config(args)
    if cfg.get('smoothing') is None:
        raise UsageError('the config has no `smoothing`: there is no smoothed model to attack')
    if args.attack == 'l2' and not args.radius:
        raise UsageError('--attack l2 needs --radius, for example --radius 0.17 0.34')
    check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    from mmengine.runner import Runner

    from mmcert.engine.attacking import report

    runner = Runner.from_cfg(cfg)
    try:
        return int(report(runner, options_of(args, runner), args.images))
    except KeyboardInterrupt:
        print('\ninterrupted; the same command continues where this one stopped', file=sys.stderr)
        return 130


def options_of(args: argparse.Namespace, runner: Any) -> Any:
    """What the attack is told."""
    from mmcert.engine.attacking import L2Options, ParameterOptions

    shared = {'judged': args.judged, 'sure': args.sure, 'seed': args.seed}
    if args.attack == 'parameters':
        return ParameterOptions(points=args.points, **shared)
    if args.losses:
        shared['losses'] = tuple(args.losses)
    classes = runner.test_dataloader.dataset.metainfo.get('classes') or ()
    return L2Options(
        radii=tuple(args.radius),
        schedule=args.schedule,
        steps=args.steps,
        restarts=args.restarts,
        draws=args.draws,
        box=args.box,
        target=class_index(args.target, classes),
        hide=class_index(args.hide, classes),
        **shared,
    )


def class_index(name: str | None, classes: Any) -> int | None:
    """The index of a class, by its name or as a number."""
    if name is None or name.isdecimal():
        return None if name is None else int(name)
    if name not in classes:
        raise UsageError(f'there is no class {name!r}; the classes are {", ".join(classes)}')
    return list(classes).index(name)
