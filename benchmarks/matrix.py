"""Runs selected tests and a short demo in the corners of the supported range of versions.

``make matrix`` runs it. Each corner is an environment of its own, deleted afterwards; results are
kept corner by corner, so that some can be run alone.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environments import Environment, FailedStepError, step
from study import ROOT, Results, Tables, read_results, table, write_results

TESTS = (
    'tests/certify/test_procedures.py', 'tests/certify/test_proofs.py',
    'tests/certify/test_binomial.py', 'tests/certify/test_certificate.py', 'tests/votes',
    'tests/metrics', 'tests/sampling/test_collect.py', 'tests/sampling/test_label_decoding.py',
    'tests/models/test_models.py', 'tests/models/test_adapters.py',
    'tests/engine/test_smoothing_hook.py', 'tests/integrations/test_smooth.py',
    'tests/certifier/test_code.py', 'tests/test_safe_loading.py', 'tests/test_compat.py',
)  # fmt: skip
"""From integers to certificates, sampling, models, the hook and files: one to two minutes."""

TEST_PACKAGES = ('pytest>=8', 'hypothesis>=6.100', 'jsonschema>=4.18', 'statsmodels>=0.14')
SHOWN = ('torch', 'numpy', 'scipy', 'opencv-python-headless')
LINES = (
    'mmengine', 'mmcv-lite', 'mmcv', 'mmsegmentation', 'onedl-mmengine', 'onedl-mmcv',
    'onedl-mmsegmentation',
)  # fmt: skip


@dataclass(frozen=True)
class Corner:
    """A choice of versions.

    Attributes:
        name (str): What it is.
        python (str): The Python, by version.
        packages (tuple[str, ...]): What is installed first.
        extra (str): The extra of mmcert that is installed after it.
        ops (bool): Whether mmcv's compiled operators are built.
    """

    name: str
    python: str
    packages: tuple[str, ...]
    extra: str = 'mmseg'
    ops: bool = False


CORNERS = (
    Corner(
        'oldest of everything', '3.10',
        (
            'torch==2.1.2', 'numpy==1.26.0', 'scipy==1.12.0', 'matplotlib==3.7.5',
            'opencv-python==4.8.1.78', 'opencv-python-headless==4.8.1.78', 'mmcv-lite==2.0.1',
            'mmengine==0.10.4', 'mmsegmentation==1.2.1',
        ),
    ),
    Corner(
        'last torch that unpickles', '3.11',
        ('torch==2.5.1', 'numpy==1.26.4', 'mmcv-lite==2.1.0', 'opencv-python-headless<4.12'),
    ),
    Corner(
        'between', '3.12', ('torch==2.9.1', 'numpy==2.1.3', 'mmcv-lite==2.1.0'),
    ),
    Corner(
        'as developed', '3.11', ('torch==2.13.0', 'numpy>=2.4', 'mmcv-lite==2.1.0'),
    ),
    Corner(
        'compiled operators', '3.11', ('torch==2.13.0', 'mmcv==2.1.0'), ops=True,
    ),
    Corner(
        'newest of everything', '3.12', ('torch==2.13.0', 'mmcv-lite'),
    ),
    Corner(
        'onedl forks', '3.11',
        ('torch==2.13.0', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation'), extra='',
    ),
)  # fmt: skip
"""What is tried."""


def main() -> int:
    """Runs the corners; exit code 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [corner.name for corner in CORNERS]
    parser.add_argument('--corners', nargs='+', choices=names, default=names, metavar='NAME')
    parser.add_argument(
        '--keep', action='store_true', help='keep the environments, and use those that were kept'
    )
    args = parser.parse_args()
    failed = False
    for corner in CORNERS:
        if corner.name not in args.corners:
            continue
        print(f'{corner.name}: ', end='', flush=True)
        row = tried(corner, args.keep)
        # Not kept: they name folders of this machine.
        details = row.pop('details', '')
        print('\n'.join([row.get('reason') or summary(row), *filter(None, [details])]), flush=True)
        failed |= not works(row)
        rows = {old['name']: old for old in read_results('matrix').get('rows', [])}
        rows[corner.name] = row
        kept = [rows[name] for name in names if name in rows]
        write_results('matrix', {'tests': list(TESTS), 'rows': kept})
    return int(failed)


def works(row: Results) -> bool:
    """Whether everything passed in a corner."""
    tests = row.get('tests') or {}
    return bool(tests.get('passed')) and not tests.get('failed') and row.get('demo') == 'works'


def summary(row: Results) -> str:
    """The counts of a corner in a line."""
    tests = row['tests']
    return ', '.join(f'{tests[key]} {key}' for key in tests) + f'; demo {row["demo"]}'


def tried(corner: Corner, keep: bool) -> Results:
    """What came of a corner."""
    started = time.perf_counter()
    row: Results = {**asdict(corner), 'date': datetime.date.today().isoformat()}
    python = interpreter(corner.python)
    if python is None:
        return {**row, 'reason': f'not tried: there is no Python {corner.python} here'}
    environment = Environment(re.sub(r'\W+', '-', corner.name), python, reuse=keep)
    try:
        install(environment, corner)
    except FailedStepError as error:
        environment.remove()
        return {**row, 'reason': 'cannot be installed here', 'details': str(error)[-2000:]}
    row['versions'] = environment.versions([*SHOWN, *LINES])
    row['tests'], row['details'] = run_tests(environment)
    try:
        environment.smoke('mmseg', '--short')
        row['demo'] = 'works'
    except FailedStepError as error:
        row['demo'], row['details'] = 'fails', row['details'] + str(error)[-2000:]
    row['seconds'] = round(time.perf_counter() - started)
    if not keep:
        environment.remove()
    return row


def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, or among those that pyenv has installed."""
    name = f'python{version}'
    installed = sorted(Path.home().glob(f'.pyenv/versions/{version}.*/bin/{name}'))
    for found in [shutil.which(name), *map(str, installed)]:
        if found and subprocess.run([found, '--version'], capture_output=True).returncode == 0:
            return found
    return None


def install(environment: Environment, corner: Corner) -> None:
    """Installs what a corner names, then mmcert as it is."""
    environment.install('setuptools>=64,<82', 'wheel')
    *_, first = sorted(corner.packages, key=lambda package: package.startswith('torch'))
    environment.install(first, *(p for p in corner.packages if p.startswith('numpy')))
    fixed = ROOT / '.venv-check' / 'constraints.txt'
    fixed.write_text('\n'.join(p for p in corner.packages if '=' in p or '<' in p) + '\n')
    # Building mmcv's operators needs torch, that of the corner; without it there are none.
    building = ['--no-build-isolation', 'ninja', 'psutil'] if corner.ops else []
    variables = {'MMCV_WITH_OPS': str(int(corner.ops)), 'MAX_JOBS': '2'}
    pip = [environment.python, '-m', 'pip', 'install', '--quiet', '-c', fixed]
    step([*pip, *building, *corner.packages], **variables)
    # The full mmcv and the forks take the place of mmcv-lite, which the extra would bring.
    extra = '' if corner.ops or not corner.extra else f'[{corner.extra}]'
    beside = ['mmsegmentation==1.2.2', 'ftfy', 'regex'] if corner.ops else []
    # By its path: pip would keep, and take again, what it built from a URL.
    step([*pip, f'{ROOT}{extra}', *beside, *TEST_PACKAGES])


def run_tests(environment: Environment) -> tuple[dict[str, int], str]:
    """Counts of the selected tests, and what pytest said of those that failed."""
    try:
        said = environment.run('-m', 'pytest', '-q', '-p', 'no:cacheprovider', *TESTS)
    except FailedStepError as error:
        said = str(error)
    last = re.findall(r'^.*\d+ (?:passed|failed|error).* in .*$', said, flags=re.MULTILINE)
    counts = re.findall(r'(\d+) (\w+)', last[-1]) if last else []
    found = {word: int(number) for number, word in counts}
    tests = {key: found.get(key, 0) for key in ('passed', 'failed', 'skipped')}
    tests['failed'] += found.get('errors', 0) + found.get('error', 0) + (not last)
    failures = re.findall(r'^(?:FAILED|ERROR) .*$', said, flags=re.MULTILINE)
    return tests, '\n'.join(failures) if last else said[-2000:]


def render(results: Results) -> list[str]:
    """The corners."""
    if not results:
        return []
    rows = [['versions', 'Python', 'torch', 'NumPy', 'OpenMMLab', 'tests', 'short demo', 'date']]
    tried = {row['name'] for row in results['rows']}
    missing = [
        {'name': corner.name, 'python': corner.python, 'date': '-', 'reason': 'not tried yet'}
        for corner in CORNERS
        if corner.name not in tried
    ]
    for row in results['rows'] + missing:
        found: dict[str, Any] = row.get('versions', {})
        line = ', '.join(f'{name} {found[name]}' for name in LINES if name in found)
        tests = row.get('tests')
        counted = row.get('reason', '')
        if tests:
            counted = f'{tests["passed"]} passed, {tests["failed"]} failed'
        rows.append([
            row['name'], found.get('python', row['python']), found.get('torch', '-'),
            found.get('numpy', '-'), line or '-', counted, row.get('demo', '-'), row['date'],
        ])  # fmt: skip
    return table(rows)


TABLES: Tables = {'matrix': render}

if __name__ == '__main__':
    sys.exit(main())
