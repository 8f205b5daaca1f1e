"""An ensemble is put together, tested, planned and certified by the tools as any other model."""

import json

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from tests.openmmlab import run_tool


@pytest.fixture
def members(make_config, tmp_path):
    """A config file and two checkpoints of it, of other weights."""
    cfg = make_config(images=2)
    cfg.default_hooks.pop('smoothing')
    config = tmp_path / 'member.py'
    cfg.dump(config)
    checkpoints = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = MODELS.build(cfg.model).state_dict()
        checkpoints.append(tmp_path / f'seed{seed}.pth')
        torch.save({'state_dict': state, 'optimizer': {}}, checkpoints[-1])
    return config, *checkpoints


def test_tools_take_an_ensemble_as_any_other_model(members, tmp_path):
    config, first, second = members
    out = tmp_path / 'made/both.pth'
    printed = run_tool(
        'tools/ensemble.py', out, '--member', config, first, '--member', config, second
    )
    assert f'wrote {out}, 2 members' in printed
    both = out.with_suffix('.py')
    saved = torch.load(out)
    assert [one['checkpoint'] for one in saved['meta']['members']] == ['seed1.pth', 'seed2.pth']
    printed = run_tool('tools/test.py', both, out, '--work-dir', tmp_path / 'work')
    assert 'cert. mIoU' in printed
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    identity = summary['certificate']['model']
    assert identity['ensemble_of'] == 2
    assert 'the mean of the logits of 2 segmentors' in identity['base_model']
    assert 'ms per draw' in run_tool('tools/plan.py', both, out)
    # Without smoothing it is tested as a model.
    cfg = Config.fromfile(both)
    cfg.pop('smoothing')
    plain = tmp_path / 'made/plain.py'
    cfg.dump(plain)
    assert 'mIoU' in run_tool('tools/test.py', plain, out, '--work-dir', tmp_path / 'plain')


def test_one_config_may_have_several_checkpoints(members, tmp_path):
    printed = run_tool('tools/ensemble.py', tmp_path / 'both.pth', '--member', *members)
    assert '2 members' in printed


def test_says_what_is_wrong_with_members(members, tmp_path):
    config, first, second = members
    out = tmp_path / 'out.pth'

    def refusal(*arguments):
        return run_tool('tools/ensemble.py', out, *arguments, expect=2)

    assert 'a checkpoint must follow' in refusal('--member', config)
    assert 'there is no checkpoint' in refusal('--member', config, tmp_path / 'none.pth')
    assert 'at least two members' in refusal('--member', config, first)
    saved = torch.load(second)
    torch.save({**saved, 'meta': {'dataset_meta': {'classes': ('a', 'b')}}}, second)
    assert 'the same classes in the same order' in refusal('--member', config, first, second)
    saved['state_dict'].popitem()
    torch.save(saved, second)
    assert 'does not fit member.py: missing' in refusal('--member', config, first, second)
    assert not out.exists()
