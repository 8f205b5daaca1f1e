"""What machine a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine(gpu: bool = False) -> dict[str, Any]:
    """The processor's model name where the system tells it, its cores, and Python's version.

    Args:
        gpu (bool): Whether the benchmark runs on a GPU where there is one: then its name, too.
    """
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    found = {
        'processor': names[0] if names else platform.processor() or platform.machine(),
        'cores': os.cpu_count(),
        'python': platform.python_version(),
    }
    if gpu and torch.cuda.is_available():
        found['gpu'] = torch.cuda.get_device_name()
    return found
