"""What the tests of devices share: where they run, and sampling runs to compare."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcert.perturbations import GaussianNoise
from tests.sampling.test_long_runs import GROUPS, looks_of, votes_of

ROOT = Path(__file__).parents[2]
NOISE = GaussianNoise(0.25)

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.cuda)]
"""Tests that can run on both show on the CPU that they are right themselves."""


def image_on(device):
    """The image of ``tests.sampling.test_long_runs``, shape (3, 8, 10)."""
    return torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(1)).to(device)


def runs(device, **arguments):
    """Votes of several kinds by a model whose arithmetic is the same in any batch."""
    x = image_on(device)
    return {
        'plain': votes_of(x, n=301, **arguments),
        'single': votes_of(x, n0=1, n=1, **arguments),
        'none': votes_of(x, n0=0, **arguments),
        'groups': votes_of(x, groups=GROUPS, **arguments),
        'looks': looks_of(x, **arguments),
    }


def arrays(found):
    """All arrays of such runs by name."""
    return {
        f'{name}-{field}-{level}': np.asarray(getattr(part, field))
        for name, votes in found.items()
        for level, part in enumerate((votes, *votes.group_votes))
        for field in ('guess', 'hits', 'selection_hits')
        if getattr(part, field) is not None
    }


def assert_same_bytes(found, expected):
    """Compares arrays by name, type and content."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def start(script, *arguments):
    """A Python process of its own in the root of the repository."""
    return subprocess.Popen([sys.executable, '-c', script, *map(str, arguments)], cwd=ROOT)


def finish(processes, seconds=240):
    """Waits for processes, and ends those that hang."""
    try:
        assert [process.wait(timeout=seconds) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()
