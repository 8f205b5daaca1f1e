"""What the benchmarks share: running tools, choosing inputs, results files, and their tables.

A benchmark measures, writes one JSON file with ``write_results``, and renders it itself: its
``TABLES`` maps each table's name in the pages to a function from the results to Markdown lines.
``update_readme.py`` calls those functions. Heavy packages are imported where they are used, so
that ``--help`` and the tables are quick.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
IMAGES = ROOT / 'docs' / 'images'
WORK_DIRS = ROOT / 'work_dirs'

Results = dict[str, Any]
"""The content of a results file."""
Tables = dict[str, Callable[[Results], list[str]]]


def run_tool(name: str, *arguments: object) -> None:
    """Runs a tool of this repository in a process of its own.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    command = [sys.executable, str(ROOT / 'tools' / f'{name}.py'), *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True)


def evenly_spaced(count: int, total: int, endpoint: bool = True) -> list[int]:
    """Indices of ``count`` evenly spaced inputs of ``total``.

    Args:
        count (int): How many.
        total (int): Size of the data set.
        endpoint (bool): Whether the last input is one of them. Without, they are those of the
            CamVid configs.

    >>> evenly_spaced(3, 233), evenly_spaced(3, 233, endpoint=False)
    ([0, 116, 232], [0, 77, 155])
    """
    import numpy as np

    if not endpoint:
        return [k * total // count for k in range(count)]
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def chosen_inputs(indices: list[int]) -> str:
    """The option of ``tools/test.py`` that tests these inputs alone."""
    return f'test_dataloader.dataset.indices={indices}'.replace(' ', '')


def seconds_of(task: Callable[[], object], repetitions: int) -> list[float]:
    """Seconds of several calls, after one that is not counted."""
    task()
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        task()
        times.append(time.perf_counter() - started)
    return times


def machine(gpu: bool = False) -> dict[str, Any]:
    """The processor's model name where the system tells it, its cores, and Python's version.

    Args:
        gpu (bool): Whether the benchmark runs on a GPU if there is one; its name is then included.
    """
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    found = {
        'processor': names[0] if names else platform.processor() or platform.machine(),
        'cores': os.cpu_count(),
        'python': platform.python_version(),
    }
    if gpu:
        import torch

        if torch.cuda.is_available():
            found['gpu'] = torch.cuda.get_device_name()
    return found


def read_results(name: str) -> Results:
    """The results of a benchmark; empty if it has not run."""
    path = RESULTS / f'{name}.json'
    return json.loads(path.read_text()) if path.exists() else {}


def write_results(name: str, content: Results, note: str = '') -> None:
    """Writes the results of a benchmark: machine, seed, settings and rows."""
    from mmcert.files import write_json

    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f'{name}.json'
    write_json(path, content)
    print(f'wrote {path.relative_to(ROOT)}' + (f': {note}' if note else ''))


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in Markdown; the first one has the headings."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    lines.insert(1, '|' + ' --- |' * len(rows[0]))
    return lines


def on_machine(results: Results) -> str:
    """The machine that results were computed on, for a sentence."""
    found = results['machine']
    gpu = f'one {found["gpu"]}' if 'gpu' in found else 'without a GPU'
    return f'{found["processor"]}, {found["cores"]} cores, {gpu}'


def two(value: float) -> str:
    """A number with two decimals."""
    return f'{value:.2f}'


def percent(value: float | None, decimals: int = 0) -> str:
    """A share in percent, or a dash for a share that does not exist.

    >>> percent(0.256), percent(0.256, 2), percent(-0.002)
    ('26 %', '25.60 %', '0 %')
    """
    if value is None or value != value:
        return '-'
    # What is rounded to zero has no sign.
    return f'{round(100 * value, decimals) + 0.0:.{decimals}f} %'
