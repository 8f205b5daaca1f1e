"""Config and checkpoint of an ensemble, from those of its members."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmcert.engine.base_model import model_config
from mmcert.engine.weights import CheckpointMismatchError, mismatches, read_checkpoint
from mmcert.files import atomic_writer
from mmcert.models.ensemble import SegmentorEnsemble
from mmcert.registry import MODELS


def write_ensemble(out: str | os.PathLike[str], members: Sequence[tuple[Config, str]]) -> Path:
    """Writes an ensemble that tests as any other model: a checkpoint, and a config beside it.

    The config is that of the first member with another ``model``; data, schedule and ``smoothing``
    are the first member's.

    Args:
        out (str | os.PathLike): File for the checkpoint, ending in ``.pth``; the config takes the
            same name with ``.py``.
        members (Sequence[tuple[Config, str]]): Config and checkpoint file of each.

    Returns:
        Path: The config.

    Raises:
        ValueError: If ``out`` does not end in ``.pth``, or the members do not go together.
        CheckpointMismatchError: If a checkpoint does not hold the weights of its member.
    """
    out = Path(out)
    if out.suffix != '.pth':
        raise ValueError(f'the checkpoint of the ensemble must end in .pth, got {out}')
    for cfg, _ in members:
        # mmdetection3d's registries do not know the ensemble.
        if cfg.get('default_scope', 'mmseg') != 'mmseg':
            raise ValueError(
                f'{_name(cfg)} is a config of {cfg.default_scope}; ensembles are of '
                'mmsegmentation models, for images'
            )
    init_default_scope('mmseg')
    model = dict(type='mmcert.SegmentorEnsemble', members=[model_config(cfg) for cfg, _ in members])
    built = MODELS.build(model)
    checkpoints = [read_checkpoint(path) for _, path in members]
    classes = _shared_classes(members, checkpoints)
    state = _state(built, members, checkpoints)
    cfg = members[0][0].copy()
    cfg.model, cfg.load_from, cfg.resume = model, None, False
    cfg.pop('data_preprocessor', None)
    if imports := _imports(cfg for cfg, _ in members):
        cfg.custom_imports = dict(imports=imports, allow_failed_imports=False)
    meta = {
        'dataset_meta': {'classes': classes},
        'members': [{'config': _name(cfg), 'checkpoint': Path(path).name} for cfg, path in members],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(out) as file:
        torch.save({'meta': meta, 'state_dict': state}, file)
    cfg.dump(out.with_suffix('.py'))
    return out.with_suffix('.py')


def _name(cfg: Config) -> str:
    return Path(cfg.filename or 'config').name


def _state(
    built: SegmentorEnsemble, members: Sequence[tuple[Config, str]], checkpoints: Sequence[Any]
) -> dict[str, Any]:
    """The weights of all members under the names that they have in the ensemble."""
    state = {}
    for number, (member, checkpoint) in enumerate(zip(built.members, checkpoints, strict=True)):
        if found := mismatches(member, checkpoint):
            cfg, path = members[number]
            raise CheckpointMismatchError(
                f'{path} does not fit {_name(cfg)}: {"; ".join(found[:5])}'
            )
        weights = checkpoint.get('state_dict', checkpoint)
        for key, value in weights.items():
            state[f'members.{number}.{key.removeprefix("module.")}'] = value
    return state


def _shared_classes(
    members: Sequence[tuple[Config, str]], checkpoints: Sequence[Any]
) -> tuple[str, ...]:
    """The class names of all members: a checkpoint's, or else its data set's; refuses others."""
    found = []
    for (cfg, path), checkpoint in zip(members, checkpoints, strict=True):
        names = (checkpoint.get('meta') or {}).get('dataset_meta', {}).get('classes')
        if names is None:
            dataset = DATASETS.get(cfg.test_dataloader.dataset.type)
            names = getattr(dataset, 'METAINFO', {}).get('classes', ())
        found.append(tuple(names))
        if found[-1] != found[0]:
            raise ValueError(
                f'{path} was trained for the classes {", ".join(found[-1])}, '
                f'{members[0][1]} for {", ".join(found[0])}: all members must have the same '
                'classes in the same order'
            )
    return found[0]


def _imports(cfgs: Any) -> list[str]:
    """What the members' configs import, each once."""
    wanted: dict[str, None] = {}
    for cfg in cfgs:
        modules = (cfg.get('custom_imports') or {}).get('imports', ())
        wanted |= dict.fromkeys([modules] if isinstance(modules, str) else modules)
    return list(wanted)
