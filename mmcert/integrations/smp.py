"""Models of segmentation-models-pytorch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmcert.integrations.image_model import ModuleModel
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.safe_loading import only_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The normalisation of the library's encoders: a saved model does not say its own."""


class SmpModel(ModuleModel):
    """A model of segmentation-models-pytorch.

    Images are padded to what its encoder needs, inside the smoothed function.

    Args:
        module (torch.nn.Module): The model; it is put into ``eval`` mode.
        preprocessing (Preprocessing): What happens to an image before.

    Raises:
        ValueError: If it returns probabilities of several classes, or labels: it must be built
            without ``activation``.
    """

    library = 'segmentation-models-pytorch'

    def __init__(self, module: torch.nn.Module, preprocessing: Preprocessing) -> None:
        head: Any = getattr(module, 'segmentation_head', None)
        activation = getattr(head[-1], 'activation', None) if head is not None else None
        # Of one class it may be a sigmoid: one_channel='probabilities' says so.
        of_one = isinstance(activation, torch.nn.Sigmoid) and head[0].out_channels == 1
        if not (activation is None or isinstance(activation, torch.nn.Identity) or of_one):
            raise ValueError(
                f'{type(module).__name__} returns what {type(activation).__name__} makes of its '
                'scores: build it with activation=None, the weights stay the same'
            )
        stride = int(getattr(getattr(module, 'encoder', None), 'output_stride', 32))
        if getattr(module, 'requires_divisible_input_shape', True):
            preprocessing = replace(preprocessing, padded_to=stride)
        super().__init__(module, preprocessing)


def is_of_smp(model: Any) -> bool:
    """Whether a model is one of segmentation-models-pytorch; does not import it."""
    return any(
        base.__module__.startswith('segmentation_models_pytorch.') for base in type(model).__mro__
    )


def load(path: str | os.PathLike[str], preprocessing: Preprocessing | None = None) -> SmpModel:
    """Loads a model that ``save_pretrained`` has written.

    Args:
        path (str | os.PathLike): The folder.
        preprocessing (Preprocessing | None): In place of the normalisation of ImageNet.

    Raises:
        FileNotFoundError: If there is no such folder or no config in it.
        ValueError: If it is no model of this library.
    """
    config = Path(path) / 'config.json'
    if not config.is_file():
        raise FileNotFoundError(f'there is no {config}: give the folder that save_pretrained wrote')
    import segmentation_models_pytorch as smp

    try:
        with only_weights():
            module = smp.from_pretrained(str(path), strict=True)
    except Exception as error:
        line = (str(error).strip().splitlines() or [''])[0]
        raise ValueError(
            f'{path} holds no model of segmentation-models-pytorch that can be loaded: '
            f'{type(error).__name__}: {line}'
        ) from error
    return SmpModel(module, preprocessing or Preprocessing(IMAGENET_MEAN, IMAGENET_STD))
