"""The tool that trains denoisers: what it leaves, how it goes on, and what it refuses."""

import json
import re

import cv2
import pytest
import torch
from mmengine.config import Config

from mmcert.denoisers import UNetDenoiser
from mmcert.models import DenoiserModel
from tests.openmmlab import ROOT, run_test, run_tool
from tests.tools.test_train_surrogate import call, tool_of

SIZE = (32, 48)


@pytest.fixture
def tool():
    return tool_of('train_denoiser')


@pytest.fixture
def segmentor(make_config, tmp_path):
    """A segmentor's config, with its checkpoint."""
    cfg = make_config()
    cfg.dump(tmp_path / 'segmentor.py')
    return cfg


@pytest.fixture
def tiny(tmp_path, scenes_root, segmentor):
    """Writes a config like those of configs/denoisers, of drawn scenes and four iterations."""

    def write(**options):
        cfg = Config.fromfile(ROOT / 'configs/denoisers/unet_stability-s0.25_camvid-360x480.py')
        for part, images in (('train', 4), ('val', 3), ('test', 3)):
            loader = cfg[f'{part}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset = dict(
                type='mmcert.StreetScenesDataset',
                split=part,
                num_images=images,
                size=SIZE,
                data_root=str(scenes_root),
                pipeline=loader.dataset.pipeline,
            )
        cfg.train_dataloader.batch_size = 2
        cfg.load_from = None
        cfg.model.denoiser.update(widths=(4, 6))
        cfg.model.segmentor = dict(
            config=str(tmp_path / 'segmentor.py'), checkpoint=segmentor.load_from
        )
        cfg.model.data_preprocessor.size = SIZE
        cfg.train_cfg.update(max_iters=4, val_interval=4)
        cfg.default_hooks.checkpoint.interval = 2
        cfg.merge_from_dict(options)
        cfg.dump(tmp_path / 'config.py')
        return tmp_path / 'config.py'

    return write


def test_the_tool_leaves_a_denoiser_that_smoothing_takes(tiny, tmp_path, segmentor):
    printed = run_tool('tools/train_denoiser.py', tiny(), '--work-dir', tmp_path / 'trained')
    assert 'loss_cross_entropy' in printed and 'denoiser/agreement' in printed
    path = tmp_path / 'trained/denoiser.pth'
    denoiser = UNetDenoiser.from_checkpoint(path)
    weights = torch.load(tmp_path / 'trained/iter_4.pth', weights_only=False)['state_dict']
    assert weights.keys() == {f'denoiser.{name}' for name in denoiser.state_dict()}
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, weights[f'denoiser.{name}'])
    answer = json.loads((tmp_path / 'trained/denoiser.json').read_text())
    assert answer['denoiser'] == {'type': 'UNetDenoiser', **denoiser.spec()}
    assert (answer['digest'], answer['images']) == (denoiser.digest(), 3)
    assert answer['trained_through'] == 'segmentor'
    assert answer['held_out'].keys() == {
        f'denoiser/{name}' for name in ('noisy_psnr', 'psnr', 'noisy_agreement', 'agreement')
    }
    picture = cv2.imread(str(tmp_path / 'trained/denoiser.png'))
    assert picture.shape[0] > 2 * SIZE[0] and picture.shape[1] > 3 * SIZE[1]
    segmentor.smoothing.denoiser = dict(type='mmcert.UNetDenoiser', checkpoint=str(path))
    assert 'certified/certAcc' in run_test(segmentor)


def test_an_interrupted_training_continues(tool, tiny, tmp_path, monkeypatch, capsys):
    step, done, stop_before = DenoiserModel.train_step, [], 3

    def counted(self, *args, **kwargs):
        if len(done) == stop_before:
            raise KeyboardInterrupt
        done.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DenoiserModel, 'train_step', counted)
    config, work = tiny(**{'model.segmentor': None}), tmp_path / 'work'
    assert call(tool, monkeypatch, config, '--work-dir', work) == 130
    assert 'the same command with --resume continues' in capsys.readouterr().err
    assert not (work / 'denoiser.pth').exists()
    done.clear()
    assert call(tool, monkeypatch, config, '--work-dir', work, '--resume', '--pictures', 0) == 0
    assert len(done) == 2
    assert UNetDenoiser.from_checkpoint(work / 'denoiser.pth')
    assert not (work / 'denoiser.png').exists()
    answer = json.loads((work / 'denoiser.json').read_text())
    assert answer['trained_through'] == '' and 'denoiser/agreement' not in answer['held_out']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.denoiser.sigma': 0}, 'sigma must be positive'),
        ({'model.segmentor.checkpoint': 'nowhere.pth'}, 'no file nowhere.pth'),
        (
            {'load_from': 'nowhere/iter_9.pth'},
            'no checkpoint nowhere/iter_9.pth; load_from names it',
        ),
    ],
)
def test_the_tool_says_what_is_wrong_with_a_config(
    tool, tiny, tmp_path, monkeypatch, capsys, options, message
):
    assert call(tool, monkeypatch, tiny(**options), '--work-dir', tmp_path / 'work') == 2
    assert re.search(f'^error: .*{message}', capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize(
    'environment',
    [{}, pytest.param({'OMP_NUM_THREADS': '1'}, marks=pytest.mark.slow)],
    ids=['here', 'in a process of its own, where nothing is imported yet'],
)
def test_the_tool_refuses_another_model(segmentor, tmp_path, environment):
    command = ('tools/train_denoiser.py', tmp_path / 'segmentor.py', '--work-dir', tmp_path / 'w')
    printed = run_tool(*command, expect=2, **environment)
    assert 'must be an mmcert.DenoiserModel, got EncoderDecoder' in printed
