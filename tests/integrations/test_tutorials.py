"""The tutorials of libraries beside OpenMMLab run, and so do their commands."""

import re
import shlex
from pathlib import Path

import pytest

from mmcert.commands.main import run
from tests.integrations.libraries import library

TUTORIALS = Path(__file__).parents[2] / 'docs/tutorials'

PYTHON = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)

NEEDS = {
    'transformers': 'transformers',
    'smp': 'segmentation_models_pytorch',
    'torchvision': 'torchvision',
}
"""Each page, and the library that it needs."""


@pytest.mark.slow
@pytest.mark.parametrize('name', NEEDS)
def test_the_tutorial_runs_and_its_command_certifies(name, tmp_path, monkeypatch, capsys):
    library(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    text = (TUTORIALS / f'{name}.md').read_text()
    program = '\n'.join(PYTHON.findall(text))
    exec(compile(program, name, 'exec'), {'__name__': name})
    said = re.findall(r'^\s*print\(.*\)  # (.+)$', program, re.MULTILINE)
    shown = capsys.readouterr().out.splitlines()
    assert said and [line for line in said if line not in shown] == []
    [command] = re.findall(r'^mmcert (.+)$', text, re.MULTILINE)
    word, *words = shlex.split(command)
    assert run(word, words) == 0, capsys.readouterr()
    assert 'certified results of' in capsys.readouterr().out
