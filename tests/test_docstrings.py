"""The examples in docstrings run, and show what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

from mmcert.compat import enable_mmcv_lite

ROOT = Path(__file__).parent.parent
OPTIONAL = ('mmengine', 'mmcv', 'mmseg', 'mmdet3d', 'triton')
"""Packages without which a module may be impossible to import."""


def modules_with_examples():
    for path in sorted((ROOT / 'mmcert').rglob('*.py')):
        if '>>>' in path.read_text() and '.mim' not in path.parts:
            yield '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


@pytest.mark.parametrize('name', modules_with_examples())
def test_examples_of_docstrings_show_what_they_say(name):
    enable_mmcv_lite()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] in OPTIONAL:
            pytest.skip(f'{error.name} is not installed')
        raise
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert attempted > 0, f'no example of {name} was found: are they indented in a docstring?'
    assert failed == 0
