"""Builds sdist and wheel, and tries them in empty environments, with each extra in turn.

``make dist-check`` runs it. Each environment gets one extra, and ``smoke.py`` in an empty folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from environments import FOLDER, Environment, FailedStepError, build
from study import ROOT

EXTRAS = (
    '', 'mmseg', 'mmdet3d', 'mmpretrain', 'transformers', 'smp', 'torchvision', 'onnx', 'diffusion',
    'corruptions', 'hub', 'fiftyone', 'tests', 'docs',
)  # fmt: skip
"""Every extra of setup.py, and none."""

NEWEST_TORCH = ('mmpretrain', 'smp', 'torchvision')
"""They bring torchvision, whose wheels fit no torch that was built for CPUs alone."""

SHIPPED = ('mmcert/', 'configs/', 'tools/', 'model-index.yml')


def main() -> int:
    """Builds, compares, installs and tries; exit code 1 if something fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--extras', nargs='+', choices=EXTRAS, default=list(EXTRAS))
    parser.add_argument('--short', action='store_true', help='not the whole demo')
    args = parser.parse_args()
    sdist, wheel = build(sys.executable, ROOT / 'dist')
    failed = []
    if missing := left_out(wheel):
        print(f'{wheel.name} lacks {", ".join(missing)}')
        failed.append('wheel')
    for extra in args.extras:
        started, name = time.perf_counter(), extra or 'no extra'
        print(f'{name}: ', end='', flush=True)
        try:
            # The wheel was built from the sdist: the other way in is tried once.
            check(extra, sdist if extra == '' else wheel, args.short)
            said = 'works'
        except FailedStepError as error:
            failed.append(name)
            said = f'FAILS\n{error}\n'
        print(f'{said} ({time.perf_counter() - started:.0f} s)', flush=True)
    print(f'failed: {", ".join(failed)}' if failed else f'{sdist.name} and {wheel.name} work')
    return int(bool(failed))


def check(extra: str, file: Path, short: bool) -> None:
    """Installs a file with an extra into an empty environment, and tries it."""
    environment = Environment(extra or 'plain', sys.executable)
    requirement = f'mmcert[{extra}] @ {file.as_uri()}' if extra else str(file)
    # The torch that is tested, which may be one for CPUs alone; see `make venv`.
    pinned = [] if extra in NEWEST_TORCH else ['-c', ROOT / 'requirements' / 'lite.txt']
    environment.install(*pinned, requirement)
    if extra == 'tests':
        environment.run('-m', 'pytest', '--version')
    elif extra == 'docs':
        environment.run('-m', 'sphinx', '--version')
    parts = [extra] if extra not in ('', 'tests', 'docs') else []
    if extra == 'mmseg':
        environment.install('openmim')
        parts.append('mim')
    environment.smoke(*parts, *(['--short'] if short else []))
    environment.remove()


def left_out(wheel: Path) -> list[str]:
    """Files in git that belong into the wheel and are not there."""
    listed = subprocess.run(
        ['git', 'ls-files', *SHIPPED], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    inside = (name if name.startswith('mmcert/') else f'mmcert/.mim/{name}' for name in listed)
    return [name for name in inside if name not in packed]


if __name__ == '__main__':
    FOLDER.mkdir(exist_ok=True)
    sys.exit(main())
