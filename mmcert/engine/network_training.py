"""Training of small networks, surrogates and denoisers, for their tools."""

import argparse
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmcert.cli import UsageError, check_start, interrupted
from mmcert.compat import resume_from_work_dir, reuse_freed_memory
from mmcert.engine.smoothing_config import check_config
from mmcert.registry import MODELS


def train_network(
    cfg: Config,
    args: argparse.Namespace,
    model: type[BaseModel],
    folder: str,
    report: Callable[[Runner, int], None],
) -> int:
    """Trains the network of a config, and writes what its tool promises.

    Args:
        cfg (Config): The config, as the user wrote it, with ``work_dir``.
        args (argparse.Namespace): From ``mmcert.cli.network_parser``.
        model (type): Class that the config's model must have.
        folder (str): Where its configs are in ``configs``.
        report (Callable): Called with the trained runner and the number of pictures.

    Returns:
        int: The exit code.

    Raises:
        UsageError: If the model is another one, or the weights to start from are not there.
    """
    _require_model(cfg, model, folder)
    if args.resume:
        resume_from_work_dir(cfg)
    check_start(cfg)
    check_config(cfg)
    if not torch.cuda.is_available():
        reuse_freed_memory()
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
        report(runner, args.pictures)
    except KeyboardInterrupt:
        return interrupted('the same command with --resume continues')
    return 0


def _require_model(cfg: Config, model: type[BaseModel], folder: str) -> None:
    """Refuses a config of another model, before anything is built."""
    kind = (cfg.get('model') or {}).get('type')
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(found, type) and issubclass(found, model)):
        name = found.__name__ if isinstance(found, type) else kind
        raise UsageError(
            f'the model must be an mmcert.{model.__name__}, got {name}: see configs/{folder}'
        )


def drawn_images(runner: Runner, count: int) -> torch.Tensor:
    """Evenly spaced held-out images of a network in training, (B, C, H, W) in [0, 1]."""
    model, dataset = runner.model, runner.val_dataloader.dataset
    step = (len(dataset) - 1) / max(count - 1, 1)
    chosen = [dataset[round(index * step)] for index in range(count)]
    batch = {key: [item[key] for item in chosen] for key in chosen[0]}
    return model.data_preprocessor(batch, False)['inputs']
