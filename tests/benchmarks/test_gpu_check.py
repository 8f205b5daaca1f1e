"""The program that checks a GPU: verdicts, time limits, and a file that is always complete."""

import json
import time

import pytest


@pytest.fixture
def gpu_check(load):
    return load('gpu_check')


def fails():
    raise ValueError('that went wrong')


def test_a_failure_and_a_lack_of_time_do_not_stop_the_rest(gpu_check, tmp_path, capsys):
    report = gpu_check.Report(tmp_path / 'check.json', minutes=1)
    report.check('first', 9, fails)
    stored = json.loads((tmp_path / 'check.json').read_text())
    assert stored['verdicts'] == [
        {'verdict': 'FAILED', 'check': 'first', 'words': 'ValueError: that went wrong'}
    ]
    assert 'in fails' in stored['failures']['first']
    gpu_check.LEAST_SECONDS = 0.01
    report.check('second', 0.1, lambda: time.sleep(30))
    report.check('third', 9, lambda: report.verdict('ok', 'third', '3 of 3'))
    report.seconds = 0
    report.check('fourth', 9, fails)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        'FAILED   first: ValueError: that went wrong',
        'not run  second: time: stopped after 0 s',
        'ok       third: 3 of 3',
        'not run  fourth: time',
    ]
    assert report.failed


def test_tests_are_told_by_function(gpu_check, tmp_path, capsys):
    report = gpu_check.Report(tmp_path / 'check.json', minutes=1)
    gpu_check.tell_tests(
        report,
        [
            {'test': f'tests/cuda/test_a.py::{name}', 'outcome': o, 'seconds': 1, 'text': text}
            for name, o, text in (
                ('test_x[1]', 'passed', ''),
                ('test_y', 'skipped', 'no device'),
                ('test_x[2]', 'failed', 'def test_x\nE   assert 1 == 2'),
            )
        ],
    )
    assert capsys.readouterr().out.splitlines() == [
        'FAILED   cuda/test_a: test_x: 1 of 2 cases, 2.0 s',
        '    tests/cuda/test_a.py::test_x[2]',
        '        E   assert 1 == 2',
        'skipped  cuda/test_a: test_y: no device',
    ]


def test_the_table_says_whether_anything_was_measured(gpu_check):
    row = {
        'model': 'net', 'size': [512, 1024], 'precision': 'bf16', 'batch_size': 16, 'ratio': 1.031,
        'ratios': [1.03, 1.031, 1.04], 'draws_per_second': 812.3,
    }  # fmt: skip
    found = {
        'rows': [row], 'image': 'drawn', 'parts': [], 'tests': [{'outcome': 'passed'}],
        'about': {
            'device': 'a device', 'versions': {'torch': '2', 'cuda': None},
            'tf32': {'convolutions': True, 'matrix_products': False},
        },
    }  # fmt: skip
    lines = gpu_check.render(found)
    assert lines[2] == '| net | 512 x 1024 | - | 1.031 | - | - | 812 (batch 16) | - | - | - |'
    assert 'a device (torch 2; TF32' in lines[-1] and '1 passed, 0 failed' in lines[-1]
    assert gpu_check.render({**found, 'rows': []}) == ['Not measured: no GPU was at hand.']
