"""Writes the tables of README, docs and configs from the results files of the benchmarks.

A page marks a table's place by ``<!-- NAME table: begin -->`` and ``<!-- NAME table: end -->``.
NAME is that of a benchmark (``camvid``), with a colon and a word if it has several tables
(``semantic:attack``). The benchmark's ``TABLES`` renders it.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys

from study import ROOT, Tables, read_results

PAGES = (
    ROOT / 'README.md',
    *sorted((ROOT / 'docs').rglob('*.md')),
    *sorted((ROOT / 'configs').glob('*/README.md')),
)
PLACE = re.compile(r'(<!-- (\S+) table: begin -->\n).*?(<!-- \2 table: end -->)', re.DOTALL)


def updated(text: str) -> str:
    """A page with its tables rendered anew."""
    return PLACE.sub(lambda m: '\n'.join([m[1].rstrip(), *lines(m[2]), m[3]]), text)


def lines(name: str) -> list[str]:
    """The lines of a table."""
    benchmark = name.partition(':')[0]
    return tables(benchmark)[name](read_results(benchmark))


def tables(benchmark: str) -> Tables:
    """The tables of a benchmark, by their names."""
    return getattr(importlib.import_module(benchmark), 'TABLES', {})


def main() -> int:
    """Rewrites the pages, or with --check says whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args()
    stale = 0
    for page in PAGES:
        text = page.read_text()
        fresh = updated(text)
        if text != fresh:
            stale += 1
            print(f'{"stale" if args.check else "updated"}: {page.relative_to(ROOT)}')
            if not args.check:
                page.write_text(fresh)
    return int(args.check and stale > 0)


if __name__ == '__main__':
    sys.exit(main())
