"""Takes random draws of stored votes again through the model, and compares.

Votes are counts. A count bounds what any part of its draws may show, and where all draws agreed,
each draw taken again must agree. ``tools/verify.py`` checks what follows from the votes.
"""

from __future__ import annotations

import argparse
import secrets

from mmcert.cli import UsageError, at_least, command, tool_parser
from mmcert.commands.source import add_source, source_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        '--votes', required=True, help='folder of votes, or of results with one votes-* in it'
    )
    parser.add_argument(
        '--draws', type=at_least(1), default=20, help='of each kind, for each input (20)'
    )
    parser.add_argument(
        '--choice-seed',
        type=at_least(0),
        help='decides which draws, and with --limit which inputs; by default nobody can know it '
        'beforehand',
    )
    parser.add_argument(
        '--allow',
        type=float,
        default=0.0,
        help='share of components that may differ, where another processor rounds otherwise (0)',
    )
    add_source(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Takes the draws again, and prints a line for each input."""
    args = parse_args()
    from mmcert.votes import votes_folder

    votes = votes_folder(args.votes)
    if not 0 <= args.allow < 1:
        raise UsageError(f'--allow must lie in [0, 1), got {args.allow}')
    from mmcert.runs.redraw import redraw_run

    seed = secrets.randbits(32) if args.choice_seed is None else args.choice_seed
    inputs = failed = otherwise = 0
    for name, found in redraw_run(source_of(args), votes, args.draws, args.limit, seed):
        inputs += 1
        bad = isinstance(found, str) or found.contradicted.mean() > args.allow
        failed += bad
        otherwise += isinstance(found, str)
        text = f'not drawn again: {found}' if isinstance(found, str) else found.describe()
        print(f'{name}: {"DIFFERS: " if bad else ""}{text}')
    if not inputs:
        raise UsageError(f'none of the inputs has votes in {votes}')
    print(f'{inputs - failed} of {inputs} inputs agree (seed {seed})')
    if otherwise:
        print(
            f'note: {otherwise} were not drawn again, which says nothing against their votes: give '
            'the model and the options that they were sampled with'
        )
    return int(failed > 0)
