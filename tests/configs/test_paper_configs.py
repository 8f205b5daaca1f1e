"""Configs of the papers' settings train and certify: dry runs on a tiny image of each layout."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from tests.openmmlab import ROOT

HEIGHT, WIDTH = 32, 64
N0, N = 1, 13
FOLDERS = {'cityscapes': 19, 'pascal_context': 59, 'ade20k': 150}
PATHS = [path for folder in FOLDERS for path in sorted((ROOT / 'configs' / folder).glob('*.py'))]
TRAINED = [path for path in PATHS if not path.name.startswith('segcertify')]
CERTIFIED = [path for path in PATHS if path.name.startswith('segcertify')]
QUICK = ('mit-b0', 'scale0.25', '480x480')
"""One or two of each folder, by parts of their names; the others take some seconds each."""


def is_quick(name):
    return any(word in name for word in QUICK)


def marked(paths):
    return [
        pytest.param(
            path,
            id=path.stem,
            marks=[] if is_quick(path.stem) else [pytest.mark.slow],
        )
        for path in paths
    ]


@pytest.fixture
def dry_run(tmp_path):
    """A config made small: one tiny random image for training and one for testing, on the CPU."""

    def make(path):
        cfg = Config.fromfile(path)
        folder = path.parent.name
        rng = np.random.default_rng(0)

        def put(name, array):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / name), array)

        for image, label in FILES[folder]:
            put(image, rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
            put(label, rng.integers(0, FOLDERS[folder], (HEIGHT, WIDTH), dtype=np.uint8))
        for split in ('train', 'val'):
            listed = tmp_path / f'ImageSets/SegmentationContext/{split}.txt'
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text(f'{split}\n')
        for name in ('train', 'val', 'test'):
            loader = cfg[f'{name}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset.data_root = str(tmp_path)
            loader.dataset.pop('indices', None)
        cfg.train_dataloader.batch_size = 2
        for step in cfg.train_dataloader.dataset.pipeline:
            if step.type == 'RandomResize':
                step.scale = (WIDTH, HEIGHT)
            if step.type == 'RandomCrop':
                step.crop_size = (HEIGHT, HEIGHT)
        cfg.model.data_preprocessor.size = (HEIGHT, HEIGHT)
        cfg.model.pretrained = None
        cfg.model.backbone.init_cfg = None
        cfg.work_dir = str(tmp_path / 'work')
        cfg.experiment_name = f'{path.stem}-{tmp_path.name}'
        cfg.visualizer.name = cfg.experiment_name
        cfg.log_level = 'WARNING'
        cfg.env_cfg.dist_cfg.backend = 'gloo'
        return cfg

    return make


FILES = {
    'cityscapes': [
        (f'leftImg8bit/{split}/a/a_leftImg8bit.png', f'gtFine/{split}/a/a_gtFine_labelTrainIds.png')
        for split in ('train', 'val')
    ],
    'pascal_context': [
        (f'JPEGImages/{split}.jpg', f'SegmentationClassContext/{split}.png')
        for split in ('train', 'val')
    ],
    'ade20k': [
        (f'images/{split}/a.jpg', f'annotations/{split}/a.png')
        for split in ('training', 'validation')
    ],
}


def count_passes(model):
    """The size of each batch that the backbone gets, filled while the model runs."""
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    return seen


@pytest.mark.parametrize('path', marked(TRAINED))
def test_one_iteration_trains_every_weight_on_noisy_images(path, dry_run):
    cfg = dry_run(path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
    cfg.randomness = dict(seed=0)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    runner = Runner.from_cfg(cfg)
    dataset = runner.train_dataloader.dataset
    *_, noise, _ = dataset.pipeline.transforms
    assert (type(noise).__name__, noise.low, noise.high) == ('AddGaussianNoise', 0.25, 0.25)
    packed = dataset[0]
    assert packed['inputs'].dtype == torch.float32
    assert packed['inputs'].min() < -50  # Noise of 64 grey levels, not clipped.
    before = [parameter.detach().clone() for parameter in runner.model.parameters()]
    seen = count_passes(runner.model)
    runner.train()
    assert seen == [(2, 3, HEIGHT, HEIGHT)]
    after = runner.model.parameters()
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    # A warm-up begins with steps that are too small for some.
    assert sum(changed) > 0.5 * len(changed)


@pytest.mark.parametrize('path', marked(CERTIFIED))
def test_certifies_an_image_with_as_many_passes_as_it_says(path, dry_run):
    cfg = dry_run(path)
    smoothing = cfg.smoothing
    assert (smoothing.sigma, smoothing.tau, smoothing.n0, smoothing.n) == (0.25, 0.75, 10, 100)
    cfg.smoothing.update(n0=N0, n=N, tau=0.5, alpha=0.49, strict_weights=False, votes_dir=None)
    cfg.default_hooks.smoothing = dict(type='mmcert.SmoothingHook')
    runner = Runner.from_cfg(cfg)
    seen = count_passes(runner.model)
    metrics = runner.test()
    scales, flip = smoothing.get('scales', (1.0,)), smoothing.get('flip', False)
    sizes = {(round(HEIGHT * scale), round(WIDTH * scale)) for scale in scales}
    assert {shape[2:] for shape in seen} == sizes
    # The clean image twice, in three batches of two, in a whole one, and after the draws: are its
    # labels the same?
    size = smoothing.get('batch_size', 8)
    batches = (3 * 2 if size > 1 else 0) + (size if size > 2 else 0)
    inputs = N0 + N + 2 + batches + 1
    assert sum(shape[0] for shape in seen) == inputs * len(scales) * (1 + flip)
    assert 0 <= metrics['certified/certAcc'] <= 1
    assert runner.model.num_classes == FOLDERS[path.parent.name]
