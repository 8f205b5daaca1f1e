"""Empty environments, in which the package is tried as a user would install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from study import ROOT

FOLDER = ROOT / '.venv-check'
SMOKE = ROOT / 'benchmarks' / 'smoke.py'


class FailedStepError(RuntimeError):
    """A command that had to succeed did not; the message ends with what it printed."""


class Environment:
    """A virtual environment in ``.venv-check``.

    Args:
        name (str): Its folder.
        python (str): The Python that it is of.
        reuse (bool): Whether one that is there is taken as it is.
    """

    def __init__(self, name: str, python: str, reuse: bool = False) -> None:
        self.folder = FOLDER / name
        if reuse and self.python.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        step([python, '-m', 'venv', self.folder])

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / 'bin' / 'python'

    def install(self, *words: object) -> None:
        """Runs ``pip install``."""
        pip = [self.python, '-m', 'pip', '--disable-pip-version-check']
        step([*pip, 'install', '--quiet', *words])

    def run(self, *words: object, cwd: Path = ROOT, **variables: str) -> str:
        """Runs its Python, which sees no checkout but by ``variables``; what it printed."""
        return step([self.python, *words], cwd, **variables)

    def smoke(self, *words: str) -> str:
        """Tries the package in an empty folder, see ``smoke.py``."""
        with tempfile.TemporaryDirectory(prefix='mmcert-') as folder:
            return self.run(SMOKE, *words, cwd=Path(folder), HF_HUB_OFFLINE='1', MPLBACKEND='agg')

    def versions(self, packages: Sequence[str]) -> dict[str, str]:
        """Versions of those packages that are installed, and of Python."""
        code = (
            'import platform, sys\n'
            'from importlib import metadata\n'
            'print("python", platform.python_version())\n'
            'for name in sys.argv[1:]:\n'
            '    try: print(name, metadata.version(name))\n'
            '    except metadata.PackageNotFoundError: pass\n'
        )
        lines = self.run('-c', code, *packages).splitlines()
        return dict(line.split() for line in lines)

    def remove(self) -> None:
        """Deletes it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def step(command: Sequence[object], cwd: Path = ROOT, **variables: str) -> str:
    """Runs a command; what it printed.

    Raises:
        FailedStepError: If it fails.
    """
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**environment, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        words = ' '.join(map(str, command))
        raise FailedStepError(f'{words}\nexit code {done.returncode}:\n{done.stdout[-4000:]}')
    return done.stdout


def build(python: str, out: Path) -> tuple[Path, Path]:
    """Builds the package; the sdist, and the wheel that was built from the sdist."""
    shutil.rmtree(out, ignore_errors=True)
    builder = Environment('build', python)
    builder.install('build')
    builder.run('-m', 'build', '--outdir', out, ROOT)
    builder.remove()
    (sdist,), (wheel,) = out.glob('*.tar.gz'), out.glob('*.whl')
    return sdist, wheel
