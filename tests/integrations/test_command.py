"""``mmcert certify`` without a config, and the command ``mmcert`` itself."""

import argparse
import errno
import importlib
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from mmcert.certifier.plan_settings import PlanSettings
from mmcert.commands import main as mmcert_main
from mmcert.commands.source import SETTINGS as SETTING_OPTIONS
from mmcert.report.inputs import data_folder, write_data_folder
from mmcert.report.results_folder import ResultsFolder
from mmcert.votes import read_folder
from tests.forks import run_program
from tests.verification import SCHEMA, load_verify

ROOT = Path(__file__).parents[2]

MODEL = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 3, 3, padding=1)

def broken():
    model = build()
    model.weight.data[0] = float('nan')
    return model

def nothing():
    return None
"""
SETTINGS = ['--sigma', '0.2', '--tau', '0.6', '--n0', '5', '--n', '60', '--alpha', '0.01']
NORMALISED = ['--mean', '0.4', '0.5', '0.6', '--std', '0.25']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Three images in two folders, their label maps, and a model."""
    folder = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for name in ('a/one', 'a/two', 'b/three'):
        for part in ('images', 'labels'):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'images/{name}.png'), image)
        cv2.imwrite(str(folder / f'labels/{name}.png'), rng.integers(0, 3, (9, 12), dtype=np.uint8))
    (folder / 'model.py').write_text(MODEL)
    return folder


@pytest.fixture
def certify(data, capsys):
    """Runs the command; returns its exit code and what it printed."""

    def run(*words, out, model='build', images='images', labels='labels', settings=SETTINGS):
        arguments = ['--model', f'py:{data / "model.py"}:{model}' if ':' not in model else model]
        arguments += ['--images', str(data / images), '--out', str(out), *settings]
        arguments += ['--labels', str(data / labels)] if labels else []
        return mmcert('certify', *arguments, *words, capsys=capsys)

    return run


def mmcert(*words, capsys):
    # Ctrl-C stays pytest's own.
    with mock.patch.object(sys, 'argv', ['mmcert', *words]), mock.patch('mmcert.cli.signal'):
        try:
            code = mmcert_main.main()
        except SystemExit as ended:
            code = ended.code
    printed = capsys.readouterr()
    return code or 0, printed.out + printed.err


def test_results_are_those_that_all_tools_read(certify, data, tmp_path, capsys):
    out = tmp_path / 'certified'
    code, printed = certify(*NORMALISED, '--draw-every', '2', out=out)
    assert code == 0, printed
    assert 'certified results of 3 images' in printed and 'the original image' in printed
    results = ResultsFolder(out)
    assert [line['name'].rpartition('-')[0] for line in results.lines] == ['one', 'two', 'three']
    image = results.image(results.lines[0])
    assert image.record is not None and 'radius' in image.maps
    assert image.certificate['model']['base']['preprocessing']['std'] == [0.25]
    [votes] = out.glob('votes-*')
    assert len(list(read_folder(votes))) == 3
    assert (
        len(list(out.glob('vis-*/*.png'))) == 2 and len(list(out.glob('confidence-*/*.npz'))) == 3
    )
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(image.certificate)
    # The standalone checker agrees.
    verify = load_verify()
    for document in results.certificates.glob('*.json'):
        assert verify.Check(document, votes / f'{document.stem}.npz').problems == []
    # Other settings from the votes give the same where they are the same.
    offline = tmp_path / 'offline'
    code, printed = mmcert(
        'recertify', str(out), '--tau', '0.6', '--alpha', '0.01', '--no-plot', '--out',
        str(offline), capsys=capsys,
    )  # fmt: skip
    assert code == 0, printed
    [row] = json.loads((offline / 'offline.json').read_text())['rows']
    summary = json.loads((out / 'summary.json').read_text())
    assert row['certAcc'] == summary['rates']['certAcc'] > 0
    code, printed = mmcert('report', str(out), capsys=capsys)
    assert code == 0 and 'note:' not in printed, printed


def test_results_tell_the_report_where_their_images_are(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / 'images', 'here/photos')
    words = ['--model', f'py:{data / "model.py"}:build', '--images', 'here/photos', *NORMALISED]
    code, printed = mmcert('certify', *words, *SETTINGS, '--out', 'here/out', capsys=capsys)
    assert code == 0 and printed.endswith('\nto look at them: mmcert report here/out\n'), printed
    # Moved together, they are found again; moved alone, one line says what is missing.
    Path('here').rename('there')

    def notes(*more):
        code, printed = mmcert('report', 'there/out', *more, capsys=capsys)
        assert code == 0, printed
        return [line for line in printed.splitlines() if line.startswith('note: ')]

    assert notes() == []
    Path('there/photos').rename('photos')
    missing = 'was in there/photos, and there is no such folder: --data says where it is'
    assert notes() == [f'note: the data set of the run {missing}']
    assert notes('--data', 'photos') == []
    [note] = notes('--data', 'there')
    assert note == 'note: 3 of 3 images were not found in there: --data says where else they are'
    # As an older version left it.
    Path('there/out/data.json').unlink()
    assert notes() == ['note: the run does not say where its data set is: --data says where it is']


def test_a_run_without_labels_ends_with_the_command_that_shows_it(
    data, tmp_path, capsys, monkeypatch
):
    picture = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos/one.png'), picture)
    out = tmp_path / 'mine/certified'
    given = ['--model', f'py:{data / "model.py"}:build', *NORMALISED]
    given += ['--images', str(tmp_path / 'photos'), '--out', str(out), '--sigma', '0.2']

    def printed(*words):
        code, text = mmcert(*words, capsys=capsys)
        assert code == 0 and ' nan' not in text, text
        assert not re.search(r'\n\|[^|\n]*(\| +- +)+\|\n', text), text
        return text

    attack = ['attack', *given, '--radius', '0.05', '--steps', '2', '--losses', 'ce']
    found = printed(*attack, '--judged', '20')
    assert re.search(r'without labels there is neither .*; "kept" is the share of the', found)
    first = 'to look at them, once mmcert certify has certified these inputs as well: mmcert report'
    assert f' {first} {out} --attack {out}/attacks-' in found.splitlines()[-1]
    # What is promised stands there once, in full.
    found = printed('certify', *given)
    assert found.count('no perturbation of l2 norm') == 1
    assert 'certified with probability 0.999 per image: radius 0.1348 (l2, ' in found
    runs = [[*attack, '--judged', '20']]
    if importlib.util.find_spec('imagecorruptions'):
        noise = ['--corruptions', 'gaussian_noise', '--severities', '1', '--draws', '3']
        runs.append(['corruptions', *given, *noise])
    redraw = ['redraw', *given, '--votes', str(out)]
    assert '1 of 1 inputs agree' in printed(*redraw)
    code, text = mmcert(*redraw, '--n', '90', capsys=capsys)
    assert code == 1 and 'says nothing against their votes: give the model and the options' in text
    # Attacks find votes by their settings, and say so where there are others only.
    more = [*attack, '--judged', '20', '--limit', '1']
    assert 'note: ' not in printed(*more)
    assert 'were sampled otherwise (n: 100 there, 90 here), so that new' in printed(
        *more, '--n', '90'
    )
    shutil.rmtree(max(out.glob('votes-*'), key=lambda folder: folder.stat().st_mtime))
    shown = ['report', str(out)]
    code, text = mmcert(*shown, '--attack', 'a', 'b', capsys=capsys)
    assert code == 2 and '--attack takes one folder; there are several: a, b' in text
    code, text = mmcert('merge', str(out), capsys=capsys)
    assert code == 2 and 'results of one run need no merging' in text
    for words in runs:
        last = printed(*words).splitlines()[-1]
        shown += re.search(r' to look at them: mmcert report (.*)', last)[1].split()[1:]
    found = printed(*shown)
    assert found == f'wrote {out / "report.html"}: open it in a browser\n'
    page = (out / 'report.html').read_text()
    assert '<title>mine/certified: certified results</title>' in page
    text = re.sub('<script.*', '', page, flags=re.DOTALL)
    assert '>none<' not in text and text.count('neither accuracy nor mIoU') == len(shown) // 2
    monkeypatch.chdir(out)
    for name, words in (('report', []), ('recertify', ['--no-plot'])):
        code, text = mmcert(name, '..', *words, capsys=capsys)
        assert code == 2 and text.endswith(': did you mean ../certified?\n'), text
    printed('report', '.')
    assert '<title>mine/certified: certified results</title>' in (out / 'report.html').read_text()


def test_a_title_has_no_name_of_a_user(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path / 'alice'))
    folder = ResultsFolder.__new__(ResultsFolder)
    folder.folder = tmp_path / 'alice/out'
    assert folder.title == 'out'
    folder.folder = tmp_path / 'alice/run/out'
    assert folder.title == 'run/out'


def test_a_path_from_the_root_is_kept(tmp_path):
    write_data_folder(tmp_path, Path('/data/photos'))
    assert data_folder(tmp_path) == Path('/data/photos')
    assert data_folder(tmp_path / 'other') is None
    for text in ('{"images": null}', '[]', '{'):
        (tmp_path / 'data.json').write_text(text)
        assert data_folder(tmp_path) is None


def test_a_run_that_was_stopped_goes_on(certify, tmp_path):
    out = tmp_path / 'certified'
    assert certify(*NORMALISED, out=out)[0] == 0
    before = (out / 'summary.json').read_text()
    [votes] = out.glob('votes-*')
    next(votes.glob('two-*.npz')).unlink()
    code, printed = certify(*NORMALISED, out=out)
    assert code == 0 and printed.count('from stored votes') >= 1
    assert (out / 'summary.json').read_text() == before
    # Stopped: what was done is kept, and the exit code says so.
    stop = mock.patch('mmcert.integrations.folder.write_summary', side_effect=KeyboardInterrupt)
    with stop:
        code, printed = certify(*NORMALISED, out=out)
    assert code == 130 and 'the same command continues' in printed


def files_of(folder):
    """What is the same however a run was divided."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and not {'shards', 'shard-1-of-2', 'shard-2-of-2'} & {*path.parts}
    }


def test_shards_merge_into_the_bytes_of_one_run(certify, data, tmp_path, capsys):
    words = [*NORMALISED, '--draw-every', '2']
    assert certify(*words, out=tmp_path / 'whole')[0] == 0
    for shard in ('1/2', '2/2'):
        code, printed = certify(*words, '--shard', shard, out=tmp_path / 'shared')
        assert code == 0 and f'mmcert merge {tmp_path / "shared"}' in printed, printed
        code, printed = mmcert('report', str(tmp_path / 'shared'), capsys=capsys)
        assert code == 2 and f'have run, mmcert merge {tmp_path / "shared"}' in printed, printed
        code, printed = mmcert('merge', str(tmp_path / 'shared'), capsys=capsys)
        assert code == (0 if shard == '2/2' else 1), printed
    assert files_of(tmp_path / 'shared') == files_of(tmp_path / 'whole')
    # A shard with other label maps, or that reads them in another way, is of another run.
    for path in data.glob('labels/*/*.png'):
        others = tmp_path / 'labels' / path.parent.name
        others.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(others / path.name), np.zeros((9, 12), np.uint8))
    for more, labels, said in (
        (['--reduce-labels'], 'labels', 'reduce_labels'),
        ([], tmp_path / 'labels', 'file_sizes'),
    ):
        code, printed = certify(
            *words, *more, '--shard', '2/2', labels=labels, out=tmp_path / 'shared'
        )
        assert code == 0, printed
        code, printed = mmcert('merge', str(tmp_path / 'shared'), capsys=capsys)
        assert code == 1 and said in printed, printed


@pytest.mark.slow
def test_processes_are_killed_and_go_on_to_the_bytes_of_one(data, tmp_path, capsys):
    words = ['--model', f'py:{data / "model.py"}:build', '--images', data / 'images', '--labels']
    words += [data / 'labels', *NORMALISED, *SETTINGS, '--n', '6000', '--draw-every', '2']
    printed = run_program('tests.integrations.folder_jobs', tmp_path, *words)
    assert int(re.search(r'killed (\d+) times', printed)[1]) >= 2
    assert mmcert('merge', str(tmp_path / 'shared'), capsys=capsys)[0] == 0
    assert files_of(tmp_path / 'shared') == files_of(tmp_path / 'whole')


def test_labels_may_be_missing_or_numbered_from_one(certify, data, tmp_path):
    code, printed = certify(*NORMALISED, out=tmp_path / 'a', labels=None)
    assert code == 0 and 'certified accuracy' not in printed
    assert 'without labels there is neither accuracy nor mIoU' in printed
    assert 'abstain' in printed and not re.search(r'cert. acc|  - ', printed)
    rates = {}
    for word in (None, '--reduce-labels'):
        moved = tmp_path / 'moved'
        shutil.copytree(data / 'labels', moved, dirs_exist_ok=True)
        if word:
            for path in moved.rglob('*.png'):
                cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) + 1)
        out = tmp_path / f'out{word}'
        words = [*NORMALISED, *([word] if word else [])]
        code, printed = certify(*words, out=out, labels=str(moved))
        assert code == 0, printed
        rates[word] = json.loads((out / 'summary.json').read_text())['rates']['certAcc']
    assert len(set(rates.values())) == 1


def wrong_label(folder, data, change):
    shutil.copytree(data / 'labels', folder)
    path = folder / 'b/three.png'
    cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
    return str(folder)


@pytest.mark.parametrize(
    ('options', 'words', 'message'),
    [
        ({'images': 'none'}, (), 'there is no folder'),
        ({'labels': 'none'}, (), 'there is no folder'),
        ({}, ('--image-suffix', '.tif'), 'no images in'),
        ({}, ('--label-suffix', '_gt.png'), '3 of 3 images have no label map'),
        ({'model': 'none'}, (), 'has no function none'),
        ({'model': 'nothing'}, (), 'NoneType is no torch.nn.Module'),
        ({'model': 'broken'}, (), 'have NaN or infinite values'),
        ({'model': 'vit:folder'}, (), 'a model is given as hf:FOLDER'),
        ({'model': 'hf:nowhere'}, (), 'there is no folder nowhere'),
        ({'model': 'onnx:nowhere.onnx'}, (), 'there is no file nowhere.onnx'),
        ({'model': 'py:nowhere.py:f'}, (), 'takes a Python file and a function'),
        ({}, ('--classes', 'a', 'b'), 'has 3 classes, but 2 were given'),
        ({}, ('--tau', '0.3'), 'tau must lie in'),
        ({}, ('--n', '3'), 'cannot certify'),
        ({}, ('--n', 'auto'), 'needs a budget'),
        ({}, ('--procedure', 'bonferoni'), 'bonferoni'),
        ({}, ('--sigma', '0'), 'sigma must'),
        ({}, ('--sigma', '30'), 'sigma'),
        ({}, ('--limit', '0'), "at least 1, got '0'"),
        ({}, ('--std', '0'), 'std not 0'),
        ({}, ('--resize', '0', '4'), 'numbers of pixels'),
        ({}, ('--pixel-range', '2'), 'pixel_range must be 1 or 255'),
        ({}, ('--hierarchy', 'ade'), 'hierarchy'),
        ({}, ('--device', 'gpu'), "must be cpu or cuda, got 'gpu'"),
        ({}, ('--shard', '4/3'), "got '4/3'"),
        ({}, ('--shard', '1/4'), '4 shards of 3 images'),
        ({}, ('--launcher', 'pytorch'), 'RANK is not set'),
    ],
)
def test_what_is_wrong_is_said_in_a_line(certify, tmp_path, options, words, message):
    code, printed = certify(*NORMALISED, *words, out=tmp_path / 'out', **options)
    assert code == 2, printed
    *_, last = printed.strip().splitlines()
    assert 'error: ' in last and message in last and 'Traceback' not in printed
    assert not list(tmp_path.glob('out/certificates-*/*.json'))


def test_wrong_label_maps_are_named(certify, data, tmp_path):
    cases = {
        'size': (lambda label: label[:, :-1], 'has 9 x 11 pixels, but its image'),
        'class': (lambda label: label + 7, 'has class 7, but the model has 3 classes'),
        'colour': (lambda label: np.stack([label] * 3, axis=2), 'must hold a class number'),
    }
    for name, (change, message) in cases.items():
        labels = wrong_label(tmp_path / name, data, change)
        code, printed = certify(*NORMALISED, out=tmp_path / 'out', labels=labels)
        assert code == 2 and 'three' in printed and message in printed, printed
    (tmp_path / 'size' / 'b/three.png').write_text('no picture')
    code, printed = certify(*NORMALISED, out=tmp_path / 'out', labels=str(tmp_path / 'size'))
    assert code == 2 and 'is no picture' in printed


def test_where_results_cannot_be_written_is_said_before_anything_is_sampled(certify, tmp_path):
    (tmp_path / 'file').write_text('')
    code, printed = certify(*NORMALISED, out=tmp_path / 'file' / 'out')
    assert code == 2 and 'file is a file' in printed and 'Traceback' not in printed


def test_models_that_do_not_say_what_they_want_of_an_image_must_be_told(certify, tmp_path):
    code, printed = certify(out=tmp_path / 'out')
    assert code == 2 and 'nothing says how images are normalised' in printed
    code, printed = certify('--mean', '0', out=tmp_path / 'out')
    assert code == 2 and '--mean and --std belong together' in printed


def test_debug_shows_where_an_error_was_raised(certify, tmp_path):
    with pytest.raises(ValueError, match='tau must lie in'):
        certify(*NORMALISED, '--tau', '0.3', '--debug', out=tmp_path / 'out')


def test_the_command_lists_its_words_and_refuses_others(capsys):
    code, printed = mmcert('--help', capsys=capsys)
    assert code == 0 and all(f'\n  {name} ' in printed for name in mmcert_main.COMMANDS)
    code, printed = mmcert('certfy', capsys=capsys)
    assert code == 2 and "invalid choice: 'certfy'" in printed
    code, printed = mmcert('completion', capsys=capsys)
    assert code == 0 and '_ARGCOMPLETE' in printed


@pytest.mark.parametrize('name', [*mmcert_main.COMMANDS])
def test_each_word_is_a_module_that_explains_itself(name, capsys):
    code, printed = mmcert(name, '--help', capsys=capsys)
    assert code == 0 and printed.startswith(f'usage: mmcert {name} ') and '--debug' in printed


@pytest.mark.parametrize('name', [*mmcert_main.COMMANDS])
def test_help_tells_all_defaults(name):
    module = importlib.import_module(f'mmcert.commands.{name}')
    parsers = []

    def parse(parser, *_):
        parsers.append(parser)
        raise KeyboardInterrupt

    parsing = mock.patch('argparse.ArgumentParser.parse_args', parse)
    with parsing, pytest.raises(KeyboardInterrupt):
        module.parse_args([])
    settings = {item.name: item.default for item in fields(PlanSettings)} | {'tau': 0.75}
    for action in parsers[0]._actions:
        default = action.default
        if default is None and action.dest in SETTING_OPTIONS:
            default = settings[action.dest]
        if default in (None, False, argparse.SUPPRESS) or action.help == argparse.SUPPRESS:
            continue
        words = ' '.join(map(str, default)) if isinstance(default, list) else default
        said = re.search(
            rf'\((default: |as the run, or )?{re.escape(str(words) or "none")}\b', action.help or ''
        )
        assert said, f'{action.option_strings or action.dest}: {words} is not in {action.help}'


def python(*words, **environment):
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, **environment}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_shell_completes_words_and_options(tmp_path):
    pytest.importorskip('argcomplete')

    def completions(line):
        found = tmp_path / 'found'
        python(
            '-m', 'mmcert', _ARGCOMPLETE='1', _ARGCOMPLETE_STDOUT_FILENAME=str(found),
            COMP_LINE=line, COMP_POINT=str(len(line)),
        )  # fmt: skip
        return {word.strip() for word in re.split('[\x0b\x13]', found.read_text())}

    assert completions('mmcert re') == {'recertify', 'redraw', 'report'}
    assert '--images' in completions('mmcert certify --model hf:a --im')


@pytest.mark.parametrize('words', [('--help',), ('certify', '--help'), ('test', '--help')])
def test_help_takes_less_than_a_second(words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python('-m', 'mmcert', *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1


@pytest.mark.parametrize(
    ('raised', 'code', 'message'),
    [
        (
            OSError(errno.ENOSPC, 'No space left on device', 'a.npz'),
            2,
            'error: [Errno 28] No space',
        ),
        (PermissionError(errno.EACCES, 'Permission denied', 'a.npz'), 2, 'error: [Errno 13] Perm'),
        (KeyboardInterrupt(), 130, 'the same command continues'),
    ],
)
def test_what_was_sampled_is_kept_when_a_run_ends_early(certify, tmp_path, raised, code, message):
    from mmcert.certifier import results

    calls = mock.Mock(side_effect=[None, raised])
    with mock.patch.object(results, 'write_certificate', calls):
        found, printed = certify(*NORMALISED, out=tmp_path)
    assert found == code and message in printed and 'Traceback' not in printed
    [votes] = tmp_path.glob('votes-*')
    assert len(list(votes.glob('*.npz'))) == 2


def test_a_second_interrupt_ends_as_the_first_does(certify, tmp_path):
    raised = mock.Mock(side_effect=KeyboardInterrupt)
    stop = mock.patch('mmcert.integrations.folder.FolderRun.run', raised)
    # The second one comes while the first is being told of.
    telling = mock.Mock(side_effect=[KeyboardInterrupt, None])
    with stop, mock.patch('mmcert.cli.print', telling, create=True):
        code, _ = certify(*NORMALISED, out=tmp_path)
    assert code == 130 and telling.call_args.args == ('\ninterrupted',)


def test_the_demo_trains_certifies_answers_and_reports(tmp_path):
    pytest.importorskip('mmseg')
    from mmcert.commands import demo

    ran = []
    with (
        mock.patch.object(sys, 'argv', ['mmcert demo', '--work-dir', str(tmp_path)]),
        mock.patch.object(mmcert_main, 'run', lambda name, words: ran.append((name, *words)) or 0),
    ):
        assert demo.main() == 0
    assert [name for name, *_ in ran] == ['train', 'test', 'recertify', 'report']
    assert Path(ran[0][1]).is_file()
    assert ran[1][2] == str(tmp_path / 'iter_400.pth')
