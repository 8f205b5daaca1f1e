"""Audits every procedure against oracle segmentors, as ``tools/audit.py`` does, for the docs."""

from __future__ import annotations

import argparse
import sys

from study import RESULTS, Results, run_tool, table


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--families', type=int, default=5000, help='of each method and oracle')
    return parser.parse_args()


def main() -> int:
    """Runs the audit, which writes its own results file."""
    run_tool('audit', '--families', parse_args().families, '--out', RESULTS / 'audit.json')
    return 0


def render(results: Results) -> list[str]:
    """The worst finding of each method."""
    from mmcert.certify import audit

    findings = [audit.Finding(**row) for row in results['findings']]
    oracles = {finding.oracle for finding in findings}
    return [
        *table(audit.table(findings)),
        '',
        f'{results["families"]:,} families for each method and each of {len(oracles)} oracles '
        f'(a tenth for the bootstrap), seed {results["seed"]}.',
    ]


TABLES = {'audit': render}

if __name__ == '__main__':
    sys.exit(main())
