"""Answers for other settings from stored votes: no model, no data set, no GPU.

What is not given is as in the run, if its results lie beside the votes. Prints the table of every
combination, and writes it as ``offline.json`` beside a plot of certified accuracy over the radius,
``radius_curve.png``: point by point for each procedure, and jointly valid for all radii at once.
With ``--confidence`` it also writes how sure the model is of each component.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmcert.certify.procedures import PROCEDURES
from mmcert.certify.settings import ORDERS, PROCEDURE, SELECTION, SELECTION_CHOICES
from mmcert.cli import add_import, check_out, command, import_modules, tool_parser

SETTINGS = ('tau', 'alpha', 'procedure', 'selection', 'k', 'order')
"""Options that mean something where draws are tested."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        'votes_dir',
        nargs='+',
        metavar='votes',
        help='folder of votes, or of results with one votes-* in it',
    )
    parser.add_argument(
        '--tau', type=float, nargs='+',
        help='in [0.5, 1) (as the run, or 0.75; 0.5 for pooled tests)',
    )  # fmt: skip
    parser.add_argument('--alpha', type=float, nargs='+', help='in (0, 1) (as the run, or 0.001)')
    parser.add_argument(
        '--procedure',
        nargs='+',
        metavar='NAME',
        help=f'{", ".join(PROCEDURES)}, or your own (as the run, or {PROCEDURE})',
    )
    parser.add_argument(
        '--selection',
        nargs='+',
        choices=SELECTION_CHOICES,
        help=f'which draws count (as the run, or {SELECTION})',
    )
    parser.add_argument(
        '--k',
        type=_number_or_share,
        help=f'for {_those_that("takes_k")}: fewer than k certificates of an image may be wrong; a '
        'number, or a share of the components in (0, 1) (as the run)',
    )
    parser.add_argument(
        '--order', choices=ORDERS, help=f'for {_those_that("takes_order")} (as the run, or auto)'
    )
    parser.add_argument(
        '--out',
        help='folder for table and plot, with a folder in it for each of several votes folders '
        '(default: beside votes-NAME, offline-NAME)',
    )
    parser.add_argument('--no-plot', action='store_true', help='table only')
    parser.add_argument(
        '--confidence',
        action='store_true',
        help='also write vote share, lower bound, joint radius and runner-up of each component, as '
        'arrays and pictures, in a folder for each alpha and selection',
    )
    add_import(parser)
    return parser.parse_args(argv)


def _number_or_share(text: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'a number, or a share in (0, 1), got {text!r}') from None


def _those_that(takes: str) -> str:
    """The procedures that take a setting."""
    return ', '.join(name for name, procedure in PROCEDURES.items() if getattr(procedure, takes))


@command
def main() -> int:
    """Prints and writes the answers for each folder."""
    args = parse_args()
    import_modules(args)
    from mmcert.runs.offline import Question, answer, write_all_confidence
    from mmcert.votes import votes_folder

    folders = {folder: out_of(folder, args) for folder in map(votes_folder, args.votes_dir)}
    for out in folders.values():
        check_out(out, '--out' if args.out else 'the folder')
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    for folder, out in folders.items():
        question = Question.about(folder, given, curves=not args.no_plot)
        answer(folder, out, question)
        if args.confidence:
            write_all_confidence(folder, out, question)
    return 0


def out_of(folder: Path, args: argparse.Namespace) -> Path:
    """Where the answers from a folder of votes go."""
    if folder.name in ('', '..'):
        folder = folder.resolve()
    if args.out is not None:
        return Path(args.out) / (folder.name if len(args.votes_dir) > 1 else '')
    return folder.parent / f'offline-{folder.name.removeprefix("votes-")}'
