"""The benchmarks' command lines, tables and results files."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys

import pytest

from .conftest import FOLDER

LIBRARIES = ('torch', 'scipy', 'mmengine', 'matplotlib')
PROGRAMS = sorted(p.stem for p in FOLDER.glob('*.py') if 'def main()' in p.read_text())


def test_help_and_tables_load_no_heavy_library():
    code = f"""
import contextlib, importlib, sys
sys.path.insert(0, {str(FOLDER)!r})
for name in {PROGRAMS!r}:
    sys.argv = [name, '--help']
    with contextlib.suppress(SystemExit):
        importlib.import_module(name).main()
print(*(library for library in {LIBRARIES!r} if library in sys.modules))
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.count('usage: ') == len(PROGRAMS)
    assert done.stdout.splitlines()[-1] == '', 'heavy libraries are imported where they are used'


def test_the_tables_of_the_pages_are_those_of_their_results(load):
    update_readme = load('update_readme')
    shown = set()
    for page in update_readme.PAGES:
        text = page.read_text()
        assert update_readme.updated(text) == text
        shown |= {match[2] for match in update_readme.PLACE.finditer(text)}
    names = {path.stem for path in (FOLDER / 'results').glob('*.json')}
    # A benchmark that nobody could run yet has its places in the pages, which say so.
    names |= {name.partition(':')[0] for name in shown}
    assert shown == {name for file in names for name in update_readme.tables(file)}


def test_results_are_written_whole_and_read_again(load, tmp_path, capsys):
    study = load('study')
    study.RESULTS = study.ROOT = tmp_path
    assert study.read_results('x') == {}
    study.write_results('x', {'seed': 3, 'rate': float('nan')}, '1 row')
    assert study.read_results('x') == {'seed': 3, 'rate': None}
    assert capsys.readouterr().out == 'wrote x.json: 1 row\n'


def test_chosen_inputs_are_evenly_spaced(load):
    study = load('study')
    assert study.evenly_spaced(1, 233) == [0]
    assert study.evenly_spaced(5, 233) == [0, 58, 116, 174, 232]
    assert study.evenly_spaced(50, 233, endpoint=False) == [k * 233 // 50 for k in range(50)]
    assert study.chosen_inputs([0, 58]) == 'test_dataloader.dataset.indices=[0,58]'


def test_machines_and_shares_in_words(load):
    study = load('study')
    found = {'machine': {'processor': 'A chip', 'cores': 2}}
    assert study.on_machine(found) == 'A chip, 2 cores, without a GPU'
    found['machine']['gpu'] = 'B card'
    assert study.on_machine(found) == 'A chip, 2 cores, one B card'
    assert study.machine()['cores'] >= 1
    assert [study.percent(x) for x in (0.256, None, float('nan'))] == ['26 %', '-', '-']


@pytest.mark.slow
def test_the_sweep_over_the_model_zoo_measures_a_stock_config():
    pytest.importorskip('mmseg')

    def run(*arguments):
        command = [sys.executable, '-W', 'ignore', str(FOLDER / 'model_zoo.py'), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def measured(config):
        lines = run('--one', config).stdout.splitlines()
        return json.loads(next(line for line in lines if line.startswith('{')))

    row = measured('fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py')
    assert row['unequal'] == row['passes_differ'] == row['hits_differ'] == 0
    assert row['fast'] and not row['random']
    assert row['classes'] > 1 and row['certificate'] == 'certificate'
    assert 'FileNotFoundError' in measured('fastscnn/nothing.py')['missing']
    refused = run('--families', 'nothing')
    assert refused.returncode == 2 and 'no such family: nothing' in refused.stdout


@pytest.mark.parametrize('name', sorted(p.stem for p in FOLDER.glob('*.py')))
def test_every_program_imports_what_there_is(name):
    """Names that a program imports within its functions exist, too."""
    for node in ast.walk(ast.parse((FOLDER / f'{name}.py').read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('mmcert'):
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if error.name != 'mmdet3d':
                    raise
                pytest.skip('needs mmdet3d')
            for alias in node.names:
                there = hasattr(module, alias.name)
                submodule = f'{node.module}.{alias.name}'
                assert there or importlib.util.find_spec(submodule), ast.unparse(node)
