"""A small base model whose class probabilities under noise are known, and runners around it."""

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import traceback
from pathlib import Path
from unittest import mock

import pytest

from mmcert.compat import enable_mmcv_lite

pytest.importorskip('mmengine')
enable_mmcv_lite()
pytest.importorskip('mmseg')

import torch  # noqa: E402
from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.config import config as config_module  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmseg.models.segmentors import EncoderDecoder  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

ROOT = Path(__file__).parents[1]
DEMO = ROOT / 'configs/street_scenes/segcertify-s0.25-n100_unet-tiny_street-scenes-128x192.py'

register_all_modules()

# A runner prints its config four times. Without line breaks at the best places it is the same code,
# and most tests take half as long.
config_module.FormatCode = lambda text, **_: (text, True)


@MODELS.register_module(force=True)
class BrightnessSegmentor(EncoderDecoder):
    """Labels a pixel by whether the mean of its channels exceeds 1/2 in [0, 1] units.

    Linear in the pixel: its distance to the boundary is |mean - 1/2| * sqrt(channels), and under
    N(0, sigma^2 I) the probability of its class is Phi(distance / sigma).
    """

    def __init__(self, channels=1, binary=False, mode='whole', **kwargs):
        super().__init__(
            backbone=dict(
                type='UNet',
                in_channels=channels,
                base_channels=2,
                num_stages=1,
                strides=(1,),
                enc_num_convs=(1,),
                dec_num_convs=(),
                downsamples=(),
                enc_dilations=(1,),
                dec_dilations=(),
            ),
            decode_head=dict(
                type='FCNHead',
                in_channels=2,
                in_index=0,
                channels=2,
                num_convs=0,
                concat_input=False,
                num_classes=2,
                align_corners=False,
                **(dict(out_channels=1, threshold=0.5) if binary else {}),
            ),
            test_cfg=ConfigDict(mode=mode, crop_size=(16, 16), stride=(8, 8)),
            data_preprocessor=dict(
                type='SegDataPreProcessor', mean=[127.5] * channels, std=[50.0] * channels
            ),
            **kwargs,
        )
        self.gain = torch.nn.Parameter(torch.tensor(3.0))

    def encode_decode(self, inputs, batch_img_metas):
        # The preprocessor's mean is the threshold: 127.5 = 255 / 2.
        score = self.gain * inputs.mean(dim=1, keepdim=True)
        return score if self.out_channels == 1 else torch.cat([-score, score], dim=1)


@pytest.fixture
def make_config(tmp_path, scenes_root):
    """Builds a config of the demo's kind, small enough for a test, with a saved checkpoint."""

    def make(images=2, size=(32, 48), smoothing=None, model=None, **options):
        cfg = Config.fromfile(DEMO)
        cfg.work_dir = str(tmp_path / 'work')
        for name in ('train', 'val', 'test'):
            dataset = cfg[f'{name}_dataloader'].dataset
            dataset.update(data_root=str(scenes_root), size=size, num_images=images)
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
        cfg.model.data_preprocessor.size = size
        cfg.model.backbone.base_channels = 4
        cfg.model.decode_head.update(in_channels=4, channels=4)
        if model is not None:
            cfg.model = model
        cfg.smoothing = dict(
            sigma=0.25, n0=4, n=40, tau=0.6, alpha=0.01, procedure='holm', selection='holdout'
        ) | (smoothing or {})
        cfg.default_hooks.smoothing = dict(type='mmcert.SmoothingHook')
        cfg.merge_from_dict(options)
        torch.manual_seed(0)
        built = MODELS.build(cfg.model)
        checkpoint = tmp_path / 'model.pth'
        torch.save({'state_dict': built.state_dict()}, checkpoint)
        cfg.load_from = str(checkpoint)
        return cfg

    return make


_runs = iter(range(10**6))


def run_tool(*command, expect=0, **environment):
    """Runs a Python program of the repository; returns what it printed, on both streams.

    A tool of the repository runs in this process, which spares the imports, unless it is given an
    environment of its own.
    """
    ours = (ROOT / command[0]).is_relative_to(ROOT / 'tools')
    if ours and not environment:
        printed, code = io.StringIO(), 1
        # A tool that starts in the same second as the one before has the same name, and would get
        # its logger, which prints elsewhere.
        MMLogger._instance_dict.clear()
        argv = list(map(str, command))
        with (
            mock.patch.object(sys, 'argv', argv),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            try:
                code = tool_module(argv[0]).main()
            except SystemExit as error:
                code = error.code
            except Exception:
                traceback.print_exc()
        assert (code or 0) == expect, printed.getvalue()[-6000:]
        return printed.getvalue()
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def tool_module(path):
    """A tool of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_test(cfg):
    """Tests under a config as a tool would."""
    cfg = cfg.copy()
    cfg.experiment_name = f'test-{next(_runs)}'
    cfg.visualizer.name = cfg.experiment_name
    return Runner.from_cfg(cfg).test()


from mmcv.transforms import BaseTransform  # noqa: E402
from mmseg.registry import TRANSFORMS  # noqa: E402


@TRANSFORMS.register_module(force=True)
class LoadWrongLabels(BaseTransform):
    """Makes a data set with labels that no class has."""

    def transform(self, results):
        labels = results['gt_seg_map']
        results['gt_seg_map'] = (labels * 0 + 17).astype(labels.dtype)
        return results
