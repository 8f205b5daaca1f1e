from types import SimpleNamespace

import pytest

from mmcert.runs.input_run import InputRun


@pytest.mark.parametrize(
    'computed, number, words',
    [(0, 3, 'as stored'), (1, 4, 'about 0:01:00 left'), (2, 10, 'about 0:00:00 left')],
)
def test_only_inputs_that_were_computed_tell_how_long_the_rest_takes(computed, number, words):
    run = SimpleNamespace(indices=range(10), computed=computed)
    assert InputRun.left(run, number, seconds=10) == words
