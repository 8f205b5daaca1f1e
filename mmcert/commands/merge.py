"""Checks what the jobs of all shards have left in one folder, and writes the results of the whole.

Each line that it prints names one thing that is wrong: a shard that is missing or not finished, an
image without votes, a file that is damaged, belongs to no shard, or was sampled otherwise. Then the
exit code is 1 and nothing is written. When all is there, it counts the certificates from the votes
anew and writes ``summary.json`` and ``images.jsonl`` as one run over the data set would have.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmcert.cli import add_import, at_least, check_out, command, import_modules, tool_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('folder', help='folder of votes, or of results with one votes-* in it')
    parser.add_argument(
        '--shards', type=at_least(1), metavar='M',
        help='look at the shards i/M alone (M is that of the newest)',
    )  # fmt: skip
    parser.add_argument('--out', help='folder for the summary (default: that of the results)')
    add_import(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Names what is wrong, or writes and prints the summary."""
    args = parse_args()
    import_modules(args)
    if args.out is not None:
        check_out(args.out)
    from mmcert.report.summary import Summary, write_summary
    from mmcert.votes.merging import Merger

    merger = Merger(args.folder, args.shards)
    if problems := merger.problems:
        print('\n'.join(problems))
        print(f'nothing was merged (lines above: {len(problems)})', file=sys.stderr)
        return 1
    for note in merger.notes():
        print(f'note: {note}')
    summary = Summary(merger.results, merger.task['num_classes'], merger.task['classes'])
    print(summary.describe())
    # Where a run writes them: beside a folder votes-*.
    beside = merger.votes.name.startswith('votes-')
    out = Path(args.out or (merger.votes.parent if beside else args.folder))
    write_summary(summary, out)
    print(f'wrote {out / "summary.json"} and {out / "images.jsonl"}')
    if beside and args.out is None:
        print(f'to look at them: mmcert report {out}')
    return 0
