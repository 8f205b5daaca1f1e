"""The program that trains and certifies on a GPU: what is missing, its limit, and going on."""

import json
import signal
import subprocess
import sys
import time
from argparse import Namespace

import cv2
import numpy as np
import pytest

from tests.benchmarks.conftest import FOLDER


@pytest.fixture
def gpu_train(load):
    return load('gpu_train')


@pytest.fixture
def camvid(tmp_path):
    """A folder in CamVid's layout, with few and small images."""
    chance = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 1), ('test', 2)):
        for kind, ending, channels, high in (
            ('images', 'jpg', 3, 256), ('annotations', 'png', 1, 11),
        ):  # fmt: skip
            folder = tmp_path / 'camvid' / kind / split
            folder.mkdir(parents=True)
            for index in range(count):
                coarse = chance.integers(0, high, (6, 8, channels), dtype=np.uint8)
                cv2.imwrite(str(folder / f'{index}.{ending}'), coarse.repeat(16, 0).repeat(16, 1))
    return tmp_path / 'camvid'


def refused(gpu_train, monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, 'argv', ['gpu_train.py', *map(str, options)])
    assert gpu_train.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_missing_is_one_line(gpu_train, monkeypatch, capsys, camvid, tmp_path):
    no_device = {'a CUDA device': 'torch sees none', 'Triton': 'not installed'}
    monkeypatch.setattr(gpu_train, 'what_is_missing', lambda device: no_device)
    line = refused(gpu_train, monkeypatch, capsys, '--data', camvid)
    assert line == (
        'error: gpu-train needs a CUDA device (torch sees none); --device cpu --quick tries this '
        'program out'
    )
    line = refused(gpu_train, monkeypatch, capsys, '--data', tmp_path)
    assert 'a CUDA device (torch sees none) and CamVid (no files in' in line
    monkeypatch.setattr(gpu_train, 'what_is_missing', lambda device: {})
    line = refused(gpu_train, monkeypatch, capsys, '--data', tmp_path)
    assert line.startswith('error: gpu-train needs CamVid (no files in')


def test_the_limit_holds_whatever_a_tool_does(gpu_train, tmp_path, monkeypatch, capsys):
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/train.py').write_text('import time; time.sleep(60)')
    (tmp_path / 'tools/test.py').write_text('import time; time.sleep(60)')
    monkeypatch.setattr(gpu_train, 'ROOT', tmp_path)
    args = Namespace(
        work_dir=tmp_path / 'work', quick=True, minutes=0.5 / 60, device='cpu', data=tmp_path
    )
    begun = time.monotonic()
    run = gpu_train.Run(args, begun)
    with pytest.raises(gpu_train.UsageError, match='training had no checkpoint after'):
        run.train()
    (tmp_path / 'work/last_checkpoint').write_text('/moved/iter_250.pth')
    assert run.train() == 250
    assert not run.certify()
    assert time.monotonic() - begun < 10
    assert '0 images have votes; the same command goes on' in capsys.readouterr().out
    # Stopped training is not taken up again: the votes are of that checkpoint.
    assert run.times['checkpoint'] == 'iter_250.pth' and run.times['stopped']
    (tmp_path / 'tools/test.py').write_text('raise SystemExit(3)')
    with pytest.raises(subprocess.CalledProcessError):
        gpu_train.Run(args, time.monotonic()).certify()


def test_the_tables_say_whether_anything_was_measured(gpu_train):
    assert gpu_train.render({}) == ['Not measured yet: no GPU was at hand.']
    assert gpu_train.render_headline({}) == []
    rates = dict.fromkeys(
        ('base_aAcc', 'base_mIoU', 'smoothed_aAcc', 'smoothed_mIoU', 'certAcc', 'mIoU'), 0.5
    )
    found = {
        'model': 'a net', 'iterations': 3000, 'stopped': True, 'quick': False, 'images': 233,
        'seconds': {'training': 300.0, 'certification': 66.0}, 'versions': {'torch': '2'},
        'machine': {'processor': 'A chip', 'cores': 2, 'gpu': 'B card'},
        'rates': {**rates, 'abstain': 0.25},
        'certificate': {
            'radius': 0.169, 'tau': 0.75, 'n0': 10, 'n': 100, 'alpha': 0.001, 'seed': 0,
            'procedure': 'holm', 'parameters': {'sigma': 0.25},
        },
    }  # fmt: skip
    lines = gpu_train.render(found)
    assert lines[-3] == '| certified | 0.169 | 0.50 | 0.50 | 25 % |'
    assert '3,000 iterations with noise 0.25 (stopped by the limit): 5.0 minutes' in lines[-1]
    assert 'in 7 minutes on one B card; 233 test images' in gpu_train.render_headline(found)[-1]


@pytest.mark.slow
def test_a_try_on_the_cpu_is_stopped_and_goes_on(camvid, tmp_path):
    work = tmp_path / 'work'
    line = [
        sys.executable, '-W', 'ignore', str(FOLDER / 'gpu_train.py'), '--device', 'cpu', '--quick',
        '--data', str(camvid), '--work-dir', str(work),
    ]  # fmt: skip
    running = subprocess.Popen(line)
    while not (work / 'last_checkpoint').exists() and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=20) == 128 + signal.SIGTERM
    assert 'iter_2.pth' in (work / 'last_checkpoint').read_text()

    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert 'resumed epoch: 0, iter: 2' in done.stdout + done.stderr
    first = json.loads((work / 'gpu_train.json').read_text())
    assert (first['iterations'], first['images'], first['stopped']) == (4, 2, False)
    assert 'Only a try of the program' in done.stdout

    done = subprocess.run(line, capture_output=True, text=True)
    assert 'certified 2/2 batches from stored votes' in done.stdout + done.stderr
    second = json.loads((work / 'gpu_train.json').read_text())
    assert (second['rates'], second['iterations']) == (first['rates'], 4)
    assert second['seconds']['training'] == first['seconds']['training']
