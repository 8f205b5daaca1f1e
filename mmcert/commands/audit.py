"""Audits the procedures against oracle segmentors at the worst points of the null.

Prints for each method the oracle on which it did worst, with the share of families that failed: in
which certificates were wrong. The tool fails if a valid method violates its level, or if an invalid
one does not, and names it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from mmcert.certify.audit import CONFIDENCE, Audit, table
from mmcert.cli import (
    add_import,
    at_least,
    check_out_file,
    command,
    import_modules,
    tool_parser,
)
from mmcert.files import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        '--families', type=at_least(1), default=5_000, help='for each method and oracle (5000)'
    )
    parser.add_argument('--seed', type=at_least(0), default=0, help='of all draws (0)')
    parser.add_argument('--all', action='store_true', help='print every pair')
    parser.add_argument('--out', type=Path, help='JSON file for all findings (none)')
    add_import(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Prints the findings."""
    args = parse_args()
    if args.out is not None:
        check_out_file(args.out)
    import_modules(args)
    audit = Audit(args.families, args.seed, progress=lambda name: print(f'... {name}', flush=True))
    try:
        findings = audit.run()
    except KeyboardInterrupt:
        print('\ninterrupted; what was finished:', file=sys.stderr)
        findings = audit.findings
    from prettytable import PrettyTable

    header, *rows = table(findings, args.all)
    printed = PrettyTable([*header[:-1], 'level'])
    printed.align[header[0]] = printed.align[header[2]] = 'l'
    printed.add_rows(list(map(list, rows)))
    print(printed)
    print(
        f'{args.families} families for each pair (fewer for slow methods), seed {args.seed}; the '
        f'intervals hold {100 * CONFIDENCE:g}% each. "violated": more families failed than alpha '
        'allows.'
    )
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        found = [asdict(finding) for finding in findings]
        write_json(args.out, {'seed': args.seed, 'families': args.families, 'findings': found})
        print(f'wrote {args.out}')
    if len(findings) < audit.pairs:
        return 130
    wrong = audit.unexpected()
    print(f'AUDIT FAILED: {"; ".join(wrong)}' if wrong else 'audit passed')
    return int(bool(wrong))
