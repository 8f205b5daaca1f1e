"""Keeps the end of what the demo's certification prints, for the README.

``make demo`` trains the model and certifies it; this certifies again from the votes it left.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import textwrap

from study import ROOT, WORK_DIRS, Results, machine, write_results

CONFIG = 'configs/street_scenes/segcertify-s0.25-n100_unet-tiny_street-scenes-128x192.py'
WORK_DIR = WORK_DIRS / 'demo'


def main() -> int:
    """Runs the demo's certification and stores the end of its output."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    command = [
        sys.executable, 'tools/test.py', CONFIG, WORK_DIR / 'iter_400.pth', '--work-dir', WORK_DIR
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    content = {'machine': machine(), 'output': shown(done.stdout + done.stderr)}
    write_results('demo', content)
    return 0


def shown(output: str) -> list[str]:
    """The claim, the table of rates and the rates without certification."""
    claims = re.findall(r'(certified results of .+)', output)
    tables = re.findall(r'(?:^[|+].*\n)+', output, flags=re.MULTILINE)
    # Tables may follow each other directly: a table has three lines of dashes.
    lines = ''.join(tables).splitlines()
    start = next(i for i, line in enumerate(lines) if 'procedure' in line) - 1
    return [claims[-1], *lines[start:]]


def render(results: Results) -> list[str]:
    """The output as a block, its one long line wrapped."""
    claim, *lines = results['output']
    return ['```text', *textwrap.wrap(claim, 118), *lines, '```']


TABLES = {'demo': render}

if __name__ == '__main__':
    sys.exit(main())
