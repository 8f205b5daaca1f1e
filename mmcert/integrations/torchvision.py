"""Models of torchvision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmcert.integrations.image_model import ModuleModel
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.integrations.smp import IMAGENET_MEAN, IMAGENET_STD
from mmcert.safe_loading import UnsafeFileError, load_weights

LAST = ('classifier.4.weight', 'classifier.low_classifier.weight')
"""The weights that have one row for each class, in FCN and DeepLab, and in LR-ASPP."""


def load(
    architecture: str, path: str | os.PathLike[str], preprocessing: Preprocessing | None = None
) -> ModuleModel:
    """Loads a state dict of a segmentation model of torchvision.

    Args:
        architecture (str): Name in ``torchvision.models.segmentation``, such as 'fcn_resnet50'.
        path (str | os.PathLike): The state dict, as ``torch.save`` writes it.
        preprocessing (Preprocessing | None): In place of the normalisation of ImageNet.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such architecture, or these are no weights of it.
    """
    from torchvision.models import segmentation

    build = getattr(segmentation, architecture, None)
    if build is None or not architecture[:1].islower():
        known = ', '.join(name for name in dir(segmentation) if '_' in name[1:])
        raise ValueError(f'torchvision has no segmentor {architecture}; known: {known}')
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no file {path}')
    try:
        state = load_weights(path)
    except UnsafeFileError as error:
        raise ValueError(f'{path} is no state dict that torch can load') from error
    module = build(
        weights=None, weights_backbone=None, num_classes=_num_classes(state, path),
        **_auxiliary(state),
    )  # fmt: skip
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f'{path} does not fit {architecture}: {line}') from error
    model = ModuleModel(module, preprocessing or Preprocessing(IMAGENET_MEAN, IMAGENET_STD))
    model.library = 'torchvision'
    return model


def _num_classes(state: Any, path: str | os.PathLike[str]) -> int:
    found = [state[key] for key in LAST if isinstance(state, dict) and key in state]
    if not found:
        raise ValueError(
            f'{path} holds no weights of a segmentor of torchvision: {" or ".join(LAST)} is missing'
        )
    return len(found[0])


def _auxiliary(state: dict[str, Any]) -> dict[str, bool]:
    """Whether there is a second classifier, which only training uses."""
    there = any(key.startswith('aux_classifier') for key in state)
    return {'aux_loss': True} if there else {}
