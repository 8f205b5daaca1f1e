"""Jobs that are killed at random and started again leave what one run leaves."""

import re

import pytest

from tests.engine.shard_jobs import KILLS
from tests.engine.test_smoothing_hook import votes_files
from tests.forks import run_program
from tests.openmmlab import run_tool


@pytest.mark.slow
def test_jobs_are_killed_at_random_and_merge_into_one_run(make_config, tmp_path):
    smoothing = dict(n=2000, votes_dir='auto', save_seconds=0.05, batch_size=8)
    cfg = make_config(images=7, smoothing=smoothing)
    cfg.dump(tmp_path / 'config.py')
    printed = run_program('tests.engine.shard_jobs', tmp_path)
    assert int(re.search(r'killed (\d+) times', printed)[1]) >= KILLS
    assert votes_files(tmp_path / 'shared') == votes_files(tmp_path / 'whole')
    run_tool('tools/merge.py', tmp_path / 'shared')
    for name in ('summary.json', 'images.jsonl'):
        merged, whole = (tmp_path / folder / name for folder in ('shared', 'whole'))
        assert merged.read_bytes() == whole.read_bytes()
    (votes,) = (tmp_path / 'shared').glob('votes-*')
    assert not list(votes.glob('*.part'))
