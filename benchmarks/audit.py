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
    findings = results['findings']
    rows = [('method', 'meant to hold', 'worst oracle', 'families failed', '99.9 % interval', '')]
    for name in dict.fromkeys(row['method'] for row in findings):
        worst = max((row for row in findings if row['method'] == name), key=lambda row: row['low'])
        rows.append(
            (
                name,
                'yes' if worst['valid'] else 'no',
                worst['oracle'],
                f'{worst["failed"] / worst["families"]:.4f} (alpha {worst["alpha"]:g})',
                f'{worst["low"]:.4f} to {worst["high"]:.4f}',
                'violated' if worst['low'] > worst['alpha'] else '',
            )
        )
    return [
        *table(rows),
        '',
        f'{results["families"]:,} families for each method and each of '
        f'{len({row["oracle"] for row in findings})} oracles (a tenth for the bootstrap), seed '
        f'{results["seed"]}.',
    ]


TABLES = {'audit': render}

if __name__ == '__main__':
    sys.exit(main())
