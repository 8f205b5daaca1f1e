"""Writes the CamVid table of the README from the JSON that ``benchmarks/camvid.py`` wrote."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / 'README.md'
RESULTS = ROOT / 'benchmarks' / 'results' / 'camvid.json'
BEGIN, END = '<!-- camvid table: begin -->', '<!-- camvid table: end -->'

HEADINGS = ('scale', 'model', 'sigma', 'tau', 'n', 'radius', 'accuracy', 'mIoU', 'abstain')


def table(results: dict) -> str:
    """The table in Markdown: for each scale the base models, then the certified settings."""
    lines = [
        '| ' + ' | '.join(HEADINGS) + ' |',
        '|' + ' --- |' * len(HEADINGS),
    ]
    described = set()
    for row in results['rows']:
        rates, terms = row['rates'], row['certificate']
        name = f'trained {"with noise 0.25" if row["model"] == "noise" else "on clean images"}'
        if (row['scale'], row['model']) not in described:
            described.add((row['scale'], row['model']))
            base = (rates['base_aAcc'], rates['base_mIoU'])
            cells = [f'{row["scale"]:g}', f'base, {name}', *'----', *map(_two, base), '-']
            lines.append('| ' + ' | '.join(cells) + ' |')
        cells = [
            f'{row["scale"]:g}',
            f'certified, {name}',
            f'{row["sigma"]:g}',
            f'{terms["tau"]:g}',
            str(terms['n']),
            f'{terms["radius"]:.3f}',
            _two(rates['certAcc']),
            _two(rates['mIoU']),
            f'{100 * rates["abstain"]:.0f} %',
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    terms = results['rows'][0]['certificate']
    machine = results['machine']
    lines.append('')
    lines.append(
        f'{results["rows"][0]["images"]} test images, n0 = {terms["n0"]}, alpha = '
        f'{terms["alpha"]:g} per image, procedure {terms["procedure"]}, seed {terms["seed"]}, '
        f'computed on {machine["processor"]}, {machine["cores"]} cores, without a GPU.'
    )
    return '\n'.join(lines)


def updated(text: str) -> str:
    """The README with the table made anew."""
    content = table(json.loads(RESULTS.read_text()))
    pattern = f'{re.escape(BEGIN)}.*?{re.escape(END)}'
    return re.sub(pattern, lambda _: f'{BEGIN}\n{content}\n{END}', text, flags=re.DOTALL)


def main() -> int:
    """Rewrites the README, or with --check says whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args()
    text = README.read_text()
    fresh = updated(text)
    if args.check:
        return int(text != fresh)
    README.write_text(fresh)
    return 0


def _two(value: float) -> str:
    return f'{value:.2f}'


if __name__ == '__main__':
    sys.exit(main())
