"""What `make dist-check` and `make matrix` say of what they tried."""

import zipfile

import pytest


def test_what_a_wheel_lacks_is_named(load, tmp_path):
    dist_check = load('dist_check')
    with zipfile.ZipFile(tmp_path / 'a.whl', 'w') as archive:
        archive.writestr('mmcert/cli.py', '')
    missing = dist_check.left_out(tmp_path / 'a.whl')
    assert {'mmcert/version.py', 'mmcert/.mim/model-index.yml'} <= set(missing)
    assert any(name.startswith('mmcert/.mim/configs/') for name in missing)
    assert 'mmcert/cli.py' not in missing


def test_every_extra_is_tried(load):
    dist_check, setup = load('dist_check'), (load('study').ROOT / 'setup.py').read_text()
    for extra in filter(None, dist_check.EXTRAS):
        assert f"'{extra}'" in setup
    assert set(load('smoke').PARTS) - {'mim'} <= set(dist_check.EXTRAS)


@pytest.mark.parametrize(
    ('said', 'expected'),
    [
        ('..\n12 passed, 3 skipped, 2 warnings in 1.20s\n', (12, 0, 3)),
        ('FAILED a.py::b - x\n1 failed, 2 passed, 1 error in 3s\n', (2, 2, 0)),
        ('ImportError: no torch\n', (0, 1, 0)),
    ],
)
def test_tests_are_counted(load, said, expected):
    matrix = load('matrix')

    class Environment:
        def run(self, *words):
            return said

    tests, details = matrix.run_tests(Environment())
    assert (tests['passed'], tests['failed'], tests['skipped']) == expected
    assert not expected[1] or details


def test_a_corner_that_was_not_tried_says_why(load):
    matrix = load('matrix')
    row = {'name': 'old', 'python': '3.10', 'date': '2026-01-01', 'reason': 'not tried: no Python'}
    table = matrix.render({'rows': [row]})
    assert '| old | 3.10 | - | - | - | not tried: no Python | - | 2026-01-01 |' in table
    assert '| onedl forks | 3.11 | - | - | - | not tried yet | - | - |' in table
    assert not matrix.works(row)
    ran = {**row, 'tests': {'passed': 3, 'failed': 0, 'skipped': 1}, 'demo': 'works'}
    assert matrix.works(ran) and 'demo works' in matrix.summary(ran)
