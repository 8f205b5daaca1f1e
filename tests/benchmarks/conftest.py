"""Loads the programs of ``benchmarks``, which are scripts and no package."""

import importlib.util
import sys
from pathlib import Path

import pytest

import tests.openmmlab  # noqa: F401

FOLDER = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def load(monkeypatch):
    """``load(name)`` executes a benchmark anew and gives its module."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
