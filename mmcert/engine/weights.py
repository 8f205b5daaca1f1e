"""Checks that a checkpoint holds the weights of the model."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmcert.safe_loading import load_weights

NO_WEIGHTS = 'holds no weights: a checkpoint is a state dict, or has one under "state_dict"'


class CheckpointMismatchError(ValueError):
    """The checkpoint does not hold the weights of the model that would be certified."""


def read_checkpoint(path: str | os.PathLike[str], mmap: bool | None = None) -> Mapping[str, Any]:
    """What a checkpoint holds: a state dict, or one under 'state_dict' and more beside it.

    Raises:
        CheckpointMismatchError: If it is neither.
        UnsafeFileError: If it cannot be read, or holds what could run.
    """
    checkpoint = load_weights(path, mmap=mmap)
    state = checkpoint.get('state_dict', {}) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise CheckpointMismatchError(f'{path} {NO_WEIGHTS}')
    return checkpoint


def check_weights(path: str) -> None:
    """Refuses a checkpoint without weights, before there is a model; not one on the web.

    Raises:
        CheckpointMismatchError: If it holds none.
        UnsafeFileError: If it cannot be read, or holds what could run.
    """
    if '://' in path:
        return
    # As mmengine reads it.
    path = str(Path(path).expanduser())
    with Path(path).open('rb') as file:
        # As torch.save writes them now, tensors need not be read for that.
        mapped = file.read(4) == b'PK\x03\x04'
    checkpoint = read_checkpoint(path, mmap=mapped or None)
    weights = checkpoint.get('state_dict', checkpoint).values()
    if not any(isinstance(value, torch.Tensor) for value in weights):
        raise CheckpointMismatchError(f'{path} {NO_WEIGHTS}')


def mismatches(model: torch.nn.Module, checkpoint: Mapping[str, Any]) -> list[str]:
    """The weights that a checkpoint lacks, has too many or has in another shape.

    mmengine loads such a checkpoint (a state dict, or one under 'state_dict') and only warns.
    """
    state = checkpoint.get('state_dict', checkpoint)
    theirs = {
        re.sub(r'^module\.', '', key): tuple(value.shape)
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return [
        *(f'missing {key}' for key in sorted(ours.keys() - theirs.keys())),
        *(f'unexpected {key}' for key in sorted(theirs.keys() - ours.keys())),
        *(
            f'{key} has shape {theirs[key]}, the model {ours[key]}'
            for key in sorted(ours.keys() & theirs.keys())
            if ours[key] != theirs[key]
        ),
    ]


def load_strictly(model: torch.nn.Module, checkpoint: Mapping[str, Any], name: str) -> None:
    """Loads the weights of a checkpoint; refuses one with ``mismatches``, under its ``name``."""
    if found := mismatches(model, checkpoint):
        raise CheckpointMismatchError(f'{name} does not fit the config: {_some(found)}')
    weights = checkpoint.get('state_dict', checkpoint)
    model.load_state_dict({re.sub(r'^module\.', '', key): weights[key] for key in weights})


def _some(found: list[str]) -> str:
    more = f' and {len(found) - 5} more' if len(found) > 5 else ''
    return '; '.join(found[:5]) + more


def require_loaded(found: list[str] | None) -> None:
    """Refuses a model with ``mismatches``, or one (None) that was neither loaded nor trained."""
    if found is None:
        raise CheckpointMismatchError(
            'no checkpoint was loaded: the model has its initial weights. Give a checkpoint '
            '(or load_from), or set smoothing.strict_weights=False to certify it as it is'
        )
    if found:
        raise CheckpointMismatchError(
            f'the checkpoint does not fit the model: {_some(found)}. A certificate would be '
            'about another model. Check that config and checkpoint belong together, or set '
            'smoothing.strict_weights=False if the difference does not matter'
        )
