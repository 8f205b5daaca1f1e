"""A pytest plugin that writes each test's outcome to a file at once.

A run that is cut off leaves what it found. Load it with ``-p pytest_lines --lines FILE``, with this
folder on the path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST = 6000
"""Characters that are kept of a failure, its end."""


def pytest_addoption(parser: Any) -> None:
    """Adds the option."""
    parser.addoption('--lines', help='file to which outcomes are written, one in each line')


class _Lines:
    """Writes the outcomes.

    Args:
        path (Path): The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Writes what became of a test: its call, or what went wrong before or after."""
        if report.when != 'call' and report.outcome == 'passed':
            return
        text = ''
        if report.outcome == 'failed':
            text = str(report.longreprtext)[-MOST:]
        elif report.outcome == 'skipped' and isinstance(report.longrepr, tuple):
            text = str(report.longrepr[2]).removeprefix('Skipped: ')
        self._write(report.nodeid, report.outcome, report.duration, text)

    def pytest_collectreport(self, report: Any) -> None:
        """Writes what could not be collected."""
        if report.outcome == 'failed':
            self._write(report.nodeid, 'failed', 0.0, str(report.longreprtext)[-MOST:])
        elif report.outcome == 'skipped':
            self._write(report.nodeid, 'skipped', 0.0, str(report.longrepr[2]))

    def _write(self, name: str, outcome: str, seconds: float, text: str) -> None:
        found = {'test': name, 'outcome': outcome, 'seconds': round(seconds, 2), 'text': text}
        with self.path.open('a') as file:
            file.write(json.dumps(found) + '\n')


def pytest_configure(config: Any) -> None:
    """Starts to write, in the process that hears of all tests."""
    path = config.getoption('--lines')
    if path and not hasattr(config, 'workerinput'):
        config.pluginmanager.register(_Lines(Path(path)), 'mmcert-lines')
