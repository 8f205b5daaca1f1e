"""The tutorials of libraries beside OpenMMLab run, and so do their commands."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from mmcert.commands.main import run
from tests.integrations.libraries import library

TUTORIALS = Path(__file__).parents[2] / 'docs/tutorials'
NOTEBOOK = TUTORIALS / 'walkthrough.ipynb'

PYTHON = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)

NEEDS = {
    'transformers': 'transformers',
    'smp': 'segmentation_models_pytorch',
    'torchvision': 'torchvision',
}
"""Each page, and the library that it needs."""


def shortened(program):
    """Trains for a few steps where the page says a minute; the benchmark runs it as it is."""
    return re.sub(r'^STEPS = \d+', 'STEPS = 6', program, flags=re.MULTILINE)


def mmcert(line, capsys):
    """Runs a command as a shell does; returns what it printed."""
    word, *words = [
        str(found)
        for part in shlex.split(line)
        for found in (Path().glob(part) if '*' in part else [part])
    ]
    code = run(word, words)
    printed = capsys.readouterr()
    assert code == 0, printed
    return printed.out


@pytest.mark.slow
@pytest.mark.parametrize('name', NEEDS)
def test_the_tutorial_runs_and_its_command_certifies(name, tmp_path, monkeypatch, capsys):
    library(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    text = (TUTORIALS / f'{name}.md').read_text()
    program = shortened('\n'.join(PYTHON.findall(text)))
    exec(compile(program, name, 'exec'), {'__name__': name})
    said = re.findall(r'^\s*print\(.*\)  # (.+)$', program, re.MULTILINE)
    shown = capsys.readouterr().out.splitlines()
    assert said and [line for line in said if line not in shown] == []
    command, *others = re.findall(r'^mmcert (.+)$', text, re.MULTILINE)
    assert 'certified results of' in mmcert(command, capsys)
    for other in others:
        assert 'wrote' in mmcert(other, capsys)


def cells():
    """The cells of code of the notebook."""
    found = json.loads(NOTEBOOK.read_text())['cells']
    return [cell for cell in found if cell['cell_type'] == 'code']


def test_the_notebook_holds_programs_without_outputs():
    for cell in cells():
        assert cell['outputs'] == [] and cell['execution_count'] is None
        if not cell['source'][0].startswith('!'):
            ast.parse(''.join(cell['source']))
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    library('transformers')
    monkeypatch.chdir(tmp_path)
    names, printed = {'__name__': 'notebook'}, ''
    for cell in cells():
        source = ''.join(cell['source'])
        if source.startswith('!'):
            for line in source.replace('\\\n', ' ').splitlines():
                printed += mmcert(line.removeprefix('!mmcert '), capsys)
        else:
            exec(compile(shortened(source), 'notebook', 'exec'), names)
            printed += capsys.readouterr().out
    assert 'no perturbation of l2 norm' in printed and 'tau 0.9: radius 0.320' in printed
    assert 'certified results of 4 images' in printed
    assert (tmp_path / 'certified/report.html').is_file()
