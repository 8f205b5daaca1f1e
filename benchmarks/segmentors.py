"""Base models to time: one in plain torch, and mmsegmentation's where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import ROOT

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmcert.sampling import LogitMaps

CLASSES = 19

CONFIGS = {
    'fast_scnn': 'configs/camvid/fast-scnn_noise-s0.25-3k_camvid-360x480.py',
    'hrnet18': 'mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py',
    'hrnet48': 'mmseg::hrnet/fcn_hr48_4xb2-40k_cityscapes-512x1024.py',
    'segformer_b0': 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    'segformer_b5': 'mmseg::segformer/segformer_mit-b5_8xb1-160k_cityscapes-1024x1024.py',
}
"""Models by name: mmsegmentation's configs, with 19 classes."""


@dataclass
class Segmentor:
    """A base model in the three forms that are timed.

    Attributes:
        name (str): For the table.
        weights (str): Where the weights come from.
        logits (Callable): A normalised batch (B, 3, H, W) in, logits (B, C, h, w) out: the bare
            model.
        normalise (Callable): Images in [0, 1] (B, 3, H, W) in, a normalised batch out.
        segment (Callable): Images in [0, 1] in, ``LogitMaps`` out: what mmcert samples.
        smoothed (Callable | None): Certifies an image in [0, 1] with mmcert's adapter, given n0, n
            and the batch size; None for a model that has none.
        preprocess (Callable | None): What mmcert's adapter makes of a batch in [0, 1] before the
            pass; None for a model that has no adapter.
    """

    name: str
    weights: str
    logits: Callable[[torch.Tensor], torch.Tensor]
    normalise: Callable[[torch.Tensor], torch.Tensor]
    segment: Callable[[list[torch.Tensor]], LogitMaps]
    smoothed: Callable[[torch.Tensor, int, int, int, Path], object] | None = None
    preprocess: Callable[[torch.Tensor], object] | None = None


def plain_net(width: int = 48) -> nn.Module:
    """A light segmentor at an eighth of the resolution: it needs nothing but torch."""
    from torch import nn

    layers: list[nn.Module] = []
    channels = 3
    for index in range(3):
        out = width * (index + 1)
        layers += [
            nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
        channels = out
    for _ in range(4):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(channels, CLASSES, 1))


def plain(device: torch.device) -> Segmentor:
    """The model in plain torch, with random weights."""
    import torch

    from mmcert.sampling import LogitMaps

    torch.manual_seed(0)
    net = plain_net().eval().to(device)

    def normalise(images: torch.Tensor) -> torch.Tensor:
        return (images - 0.45) / 0.22

    def segment(images: list[torch.Tensor]) -> LogitMaps:
        return LogitMaps(net(normalise(torch.stack(images))), tuple(images[0].shape[-2:]))

    return Segmentor('plain', 'random', net, normalise, segment)


def from_mmseg(name: str, checkpoint: str | None, device: torch.device) -> Segmentor:
    """A model of mmsegmentation; see ``CONFIGS``."""
    weights = 'random' if checkpoint is None else Path(checkpoint).name
    return of_base(name, base_model(name, checkpoint, device), weights)


def base_model(name: str, checkpoint: str | None, device: torch.device) -> Any:
    """The mmsegmentation model itself, ready for inference."""
    import torch

    from mmcert.compat import enable_mmcv_lite
    from mmcert.safe_loading import allow_mmengine_checkpoints

    enable_mmcv_lite()
    allow_mmengine_checkpoints()
    from mmengine.runner import load_checkpoint
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    torch.manual_seed(0)
    base = MODELS.build(model_config(name)).eval().to(device)
    if checkpoint:
        load_checkpoint(base, checkpoint, map_location='cpu')
    return base


def of_base(name: str, base: Any, weights: str, precision: str = 'fp32') -> Segmentor:
    """An mmsegmentation model in the forms that are timed, in 'fp32', 'bf16' or 'fp16'."""
    from mmseg.structures import SegDataSample

    from mmcert.engine import SmoothingConfig
    from mmcert.models import ImageSegmentor, PrecisionSettings, SmoothedSegmentor
    from mmcert.votes import VotesStore

    settings = PrecisionSettings(precision=precision)
    device = next(base.parameters()).device

    def sample_of(image: torch.Tensor) -> SegDataSample:
        size = tuple(image.shape[-2:])
        return SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, img_path='image.png'))

    def logits(batch: torch.Tensor) -> torch.Tensor:
        with settings.autocast(device):
            return base._forward(batch)

    def normalise(images: torch.Tensor) -> torch.Tensor:
        data = {'inputs': list(images * 255), 'data_samples': None}
        return base.data_preprocessor(data)['inputs']

    def segment(images: list[torch.Tensor]) -> LogitMaps:
        return ImageSegmentor(base, sample_of(images[0]), precision=settings)(images)

    def preprocess(images: torch.Tensor) -> object:
        segmentor = ImageSegmentor(base, sample_of(images[0]), precision=settings)
        return segmentor._preprocessed(images, 255.0)

    def smoothed(image: torch.Tensor, n0: int, n: int, batch: int, folder: Path) -> object:
        smoothing = {
            'sigma': 0.25, 'n0': n0, 'n': n, 'batch_size': batch, 'precision': precision
        }  # fmt: skip
        plan = SmoothingConfig.from_cfg(smoothing).plan([str(i) for i in range(CLASSES)])
        store = VotesStore(folder, plan.spec(), {})
        wrapped = SmoothedSegmentor(base, plan, store=store)
        data = {'inputs': [(image * 255).round()], 'data_samples': [sample_of(image)]}
        return wrapped.test_step(data)

    return Segmentor(name, weights, logits, normalise, segment, smoothed, preprocess)


def model_config(name: str) -> Any:
    """The model's part of a config, for 19 classes, one process and whole images."""
    import mmseg
    from mmengine.config import Config

    config = CONFIGS[name]
    stock = Path(mmseg.__file__).parent / '.mim' / 'configs'
    file = stock / config.removeprefix('mmseg::') if 'mmseg::' in config else ROOT / config
    model = Config.fromfile(file).model
    model.pretrained = model.backbone.init_cfg = None
    for part in ('backbone', 'decode_head', 'auxiliary_head'):
        if model.get(part) and 'norm_cfg' in model[part]:
            model[part].norm_cfg.type = 'BN'
    for part in ('decode_head', 'auxiliary_head'):
        if model.get(part):
            model[part].num_classes = CLASSES
    model.test_cfg = dict(mode='whole')
    model.data_preprocessor.pop('size', None)
    return model


def build(name: str, checkpoint: str | None, device: torch.device) -> Segmentor:
    """A segmentor by name: 'plain', or one of ``CONFIGS``."""
    return plain(device) if name == 'plain' else from_mmseg(name, checkpoint, device)


def example_image(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, str]:
    """An image in [0, 1], shape (3, H, W): CamVid's if it is there and OpenCV is loaded."""
    import torch

    files = sorted((ROOT / 'data' / 'camvid' / 'images' / 'test').glob('*'))
    cv2 = sys.modules.get('cv2')
    if files and cv2 is not None:
        picture = cv2.resize(cv2.imread(str(files[len(files) // 2])), (width, height))
        image = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        return image.contiguous().to(device), f'CamVid test image {files[len(files) // 2].name}'
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, max(height // 40, 2), max(width // 40, 2))
    image = torch.nn.functional.interpolate(coarse, (height, width), mode='bicubic')[0].clamp(0, 1)
    return image.contiguous().to(device), 'drawn (smooth noise)'
