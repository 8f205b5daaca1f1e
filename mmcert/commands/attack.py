"""Attacks a model and its smoothed version, and holds what they do against the certificates.

l2 attacks go within the radii that are given; ``--attack parameters`` tries the transformations
that a config certifies against. The votes of a run that certified are used where there are some. An
attack is an upper bound of the robustness, as a certificate is a lower one. Certified components
that lose their class beyond doubt are reported, with exit code 1.
"""

from __future__ import annotations

import argparse
from typing import Any

from mmcert.cli import UsageError, command, interrupted, tool_parser
from mmcert.commands.source import add_source, source_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        '--attack', choices=['l2', 'parameters'], default='l2', help='what is attacked (l2)'
    )
    parser.add_argument(
        '--seed', type=int, default=0,
        help='of all that is random; with --model of the draws of votes too (0)',
    )  # fmt: skip
    parser.add_argument(
        '--judged', type=int, default=100, help='new draws at each attacked input (100)'
    )
    parser.add_argument(
        '--sure', type=int, default=1000,
        help='further draws where a certificate is in doubt (1000)',
    )  # fmt: skip
    _add_l2(parser.add_argument_group('l2 attacks'))
    parameters = parser.add_argument_group('attacks on parameters')
    parameters.add_argument(
        '--points', type=int, default=9, help='points of a range, at each axis (9)'
    )
    add_source(parser, own=('seed',))
    return parser.parse_args(argv)


def _add_l2(group: Any) -> None:
    group.add_argument('--radius', type=float, nargs='+', help='largest l2 norms, which these need')
    group.add_argument(
        '--losses', nargs='+', metavar='NAME',
        help='of ce, masked_ce, balanced_ce, js, spherical (all)',
    )  # fmt: skip
    group.add_argument(
        '--schedule', choices=['sea', 'fixed'], default='sea', help='radii of the search (sea)'
    )
    group.add_argument('--steps', type=int, default=40, help='from each start (40)')
    group.add_argument('--restarts', type=int, default=1, help='starts of each attack (1)')
    group.add_argument('--draws', type=int, default=8, help='noise draws of each gradient (8)')
    group.add_argument('--box', action='store_true', help='keep attacked images in [0, 1]')
    group.add_argument('--target', metavar='CLASS', help='drive components to a class (none)')
    group.add_argument('--hide', metavar='CLASS', help='make a class unseen (none)')


@command
def main() -> int:
    """Attacks, and prints and stores the results."""
    args = parse_args()
    if args.attack == 'l2' and not args.radius:
        raise UsageError('--attack l2 needs --radius, for example --radius 0.17 0.34')
    if (args.model or '').startswith('onnx:'):
        raise UsageError(f'{args.model}: ONNX Runtime gives no gradient, so it cannot be attacked')
    from mmcert.runs.attacking import check_attack, report

    options = options_of(args)
    try:
        source = source_of(args, lambda plan: check_attack(plan, options), seed=True)
        return int(report(source, options_of(args, source.classes), args.limit))
    except KeyboardInterrupt:
        return interrupted()


def options_of(args: argparse.Namespace, classes: Any = None) -> Any:
    """What the attack is told; names of classes are looked up where the classes are given."""
    from mmcert.runs.attack_options import L2Options, ParameterOptions

    shared = {'judged': args.judged, 'sure': args.sure, 'seed': args.seed}
    if args.attack == 'parameters':
        return ParameterOptions(points=args.points, **shared)
    if args.losses:
        shared['losses'] = tuple(args.losses)
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
    """The index of a class, by its name or as a number; 0 as long as classes are not known."""
    if name is None or name.isdecimal():
        return None if name is None else int(name)
    if classes is None:
        return 0
    if name not in classes:
        raise UsageError(f'there is no class {name!r}; the classes are {", ".join(classes)}')
    return list(classes).index(name)
