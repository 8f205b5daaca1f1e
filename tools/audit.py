"""Audits the procedures against oracle segmentors at the worst points of the null.

Prints for each method the oracle on which it did worst, with the share of families whose promise
was broken. Fails if a method that is meant to hold its level was exposed, or if an invalid one was
not.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from prettytable import PrettyTable

from mmcert.certify.audit import CONFIDENCE, Audit, Finding
from mmcert.files import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--families', type=int, default=5_000, help='for each method and oracle')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--all', action='store_true', help='print every pair')
    parser.add_argument('--out', type=Path, help='JSON file for all findings')
    return parser.parse_args(argv)


def main() -> int:
    """Prints the findings."""
    args = parse_args()
    audit = Audit(args.families, args.seed, progress=lambda name: print(f'... {name}', flush=True))
    try:
        findings = audit.run()
    except KeyboardInterrupt:
        print('\ninterrupted; what was finished:', file=sys.stderr)
        findings = audit.findings
    print(table(findings, args.all))
    print(
        f'{args.families} families for each pair (fewer for slow methods), seed {args.seed}; the '
        f'intervals hold {100 * CONFIDENCE:g}% each. "exposed": more families failed than alpha '
        'allows.'
    )
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(finding) for finding in findings]
        content = {'seed': args.seed, 'families': args.families, 'findings': rows}
        write_json(args.out, content)
        print(f'wrote {args.out}')
    if len(findings) < len(audit.methods) * len(audit.oracles):
        return 130
    print('audit passed' if audit.passed() else 'AUDIT FAILED')
    return int(not audit.passed())


def table(findings: list[Finding], everything: bool) -> str:
    """The findings, or of each method the worst."""
    rows = PrettyTable(['method', 'meant to hold', 'oracle', 'failed', 'interval', 'alpha', ''])
    rows.align['method'] = rows.align['oracle'] = 'l'
    for name in dict.fromkeys(finding.method for finding in findings):
        mine = sorted(
            (finding for finding in findings if finding.method == name), key=lambda f: -f.low
        )
        for finding in mine if everything else mine[:1]:
            rows.add_row(
                [
                    name,
                    'yes' if finding.valid else 'no',
                    finding.oracle,
                    f'{finding.failed / finding.families:.4f}',
                    f'{finding.low:.4f} to {finding.high:.4f}',
                    f'{finding.alpha:g}',
                    'violated' if finding.violates_level else '',
                ]
            )
    return rows.get_string()


if __name__ == '__main__':
    sys.exit(main())
