"""Which models can be smoothed, and what they take."""

import sys
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from mmengine.registry import init_default_scope

from mmcert.models.smoothed_segmentor import SmoothedSegmentor
from mmcert.pointops import install_cpu_point_ops, needs_cuda
from mmcert.registry import MODELS

Modality = Literal['image', 'cloud']
"""What a model takes as input."""


def model_config(cfg: Config) -> dict[str, Any]:
    """The config of a model, with the data preprocessor that may stand beside it."""
    model = cfg.model.copy()
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model


def build_model(cfg: Config) -> BaseModel:
    """The model of a config with initial weights, without a runner."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return MODELS.build(model_config(cfg))


def unwrap(model: Any) -> BaseModel:
    """The segmentor inside a runner's model; refuses a model that cannot be smoothed."""
    name = type(model).__name__
    if 'FullyShardedDataParallel' in name or 'FSDP' in name:
        raise TypeError(
            f'{name}: a model sharded over processes cannot be smoothed; test it with the plain '
            'or the DistributedDataParallel launcher'
        )
    base = inner(model)
    if isinstance(base, SmoothedSegmentor):
        raise TypeError('the model is smoothed already: the config has two smoothing hooks')
    if isinstance(base, BaseTTAModel):
        raise TypeError(
            'the model is wrapped for test-time augmentation, which draws outside the smoothed '
            'function. Test without --tta and set smoothing.scales and smoothing.flip instead'
        )
    if type(base).__name__ == 'DepthEstimator':
        raise TypeError('DepthEstimator predicts depth, not classes: there is nothing to certify')
    if not isinstance(base, BaseModel) or not hasattr(base, 'decode_head'):
        raise TypeError(
            f'{type(base).__name__} is not an mmsegmentation segmentor with a decode head'
        )
    return base


def inner(model: Any) -> Any:
    """The model inside a wrapper of several processes, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def modality_of(base: torch.nn.Module) -> Modality:
    """What a model takes: 'cloud' for mmdetection3d's segmentors, else 'image'."""
    # A model of mmdetection3d has imported it; any other model should not have to.
    segmentors = sys.modules.get('mmdet3d.models.segmentors')
    takes_clouds = segmentors is not None and isinstance(base, segmentors.Base3DSegmentor)
    return 'cloud' if takes_clouds else 'image'


def prepare_for_clouds(base: torch.nn.Module) -> None:
    """Gives a model of clouds the point operators that mmcv lacks on the CPU, if there are any."""
    install_cpu_point_ops()
    missing = needs_cuda(base)
    if missing and next(base.parameters()).device.type == 'cpu':
        raise RuntimeError(
            f'{type(base).__name__} runs on a CUDA device only: {"; ".join(missing)}'
        )
