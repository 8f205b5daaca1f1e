"""Every command that reads a checkpoint refuses one that would run something."""

import pytest
import torch

from tests.malice import Attack
from tests.openmmlab import run_tool

pytestmark = pytest.mark.slow


@pytest.fixture
def given(make_config, tmp_path):
    """A config, a checkpoint with an attack in it, and the folder that the attack makes."""
    cfg = make_config(images=1)
    state = torch.load(cfg.load_from)['state_dict']
    checkpoint, made = tmp_path / 'model.pth', tmp_path / 'made'
    torch.save({'state_dict': state, 'meta': Attack(made)}, checkpoint)
    cfg.default_hooks.pop('smoothing')
    cfg.load_from = None
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py', checkpoint, made


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('test', '{config} {checkpoint} --work-dir {work}'),
        ('attack', '{config} {checkpoint} --work-dir {work} --radius 0.1'),
        ('corruptions', '{config} {checkpoint} --work-dir {work}'),
        ('redraw', '{config} {checkpoint} --votes {work}'),
        ('plan', '{config} {checkpoint}'),
        ('train', '{config} --work-dir {work} --cfg-options load_from={checkpoint}'),
        ('publish_model', '{checkpoint} {work}/a.pth --config {config}'),
        ('ensemble', '{work}/a.pth --member {config} {checkpoint} {checkpoint}'),
        ('convert_checkpoint', '{config} {checkpoint} {work}/a.pth'),
    ],
)
def test_no_command_runs_what_a_checkpoint_holds(given, tmp_path, tool, arguments):
    config, checkpoint, made = given
    (tmp_path / 'work').mkdir()
    # Second draws need votes to compare with, and look for them first.
    (tmp_path / 'work/votes.npz').touch()
    words = arguments.format(config=config, checkpoint=checkpoint, work=tmp_path / 'work')
    printed = run_tool(f'tools/{tool}.py', *words.split(), expect=2)
    assert 'model.pth is refused: it names posix.mkdir' in printed.splitlines()[-1]
    assert not made.exists()
