"""``tools/verify.py`` and ``tools/redraw.py`` on what a run has left, and on what was forged."""

from dataclasses import replace

import numpy as np
import pytest

from mmcert.votes import load_votes, save_votes
from tests.openmmlab import run_test, run_tool


@pytest.fixture
def run(make_config, tmp_path):
    """A config file, and the folders of certificates and of votes of its run."""
    cfg = make_config(images=2, smoothing={'n': 60})
    run_test(cfg)
    cfg.dump(tmp_path / 'config.py')
    (certificates,) = (tmp_path / 'work/certified').glob('certificates-*')
    (votes,) = (tmp_path / 'work/certified').glob('votes-*')
    return cfg, tmp_path / 'config.py', certificates, votes


def redraw(run, *options, expect=0):
    cfg, path, _, votes = run
    return run_tool(
        'tools/redraw.py', path, cfg.load_from, '--votes', votes, '--work-dir', path.parent / 'w',
        *options, expect=expect,
    )  # fmt: skip


def test_a_run_is_verified_and_its_draws_are_found_again(run):
    _, _, certificates, votes = run
    printed = run_tool('tools/verify.py', certificates, '--votes', votes)
    assert printed.count(': verified\n') == 2
    assert '2 of 2 inputs agree' in redraw(run)
    more = redraw(run, '--votes', votes.parent, '--draws', 60, '--limit', 1)
    assert 'and 60 of 60 estimation draws' in more


@pytest.mark.damages
def test_forged_votes_are_named(run):
    _, _, certificates, votes = run
    path = sorted(votes.glob('*.npz'))[0]
    record = load_votes(path)
    forged = np.full_like(record.votes.hits, record.votes.n)
    save_votes(path, replace(record, votes=replace(record.votes, hits=forged)))
    printed = run_tool('tools/verify.py', certificates, '--votes', votes, expect=1)
    assert 'votes hits-level0 is not what the certificate was made of' in printed
    printed = redraw(run, '--choice-seed', 1, expect=1)
    assert f'{path.stem}: DIFFERS' in printed and '1 of 2 inputs agree (seed 1)' in printed


def test_votes_of_another_sampling_are_not_drawn_again(run):
    printed = redraw(run, '--cfg-options', 'smoothing.seed=3', expect=1)
    assert 'not drawn again: seed: 0 there, 3 here' in printed
    assert 'is not a votes file' in redraw(run, '--votes', run[2], expect=2)
