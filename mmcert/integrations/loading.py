"""Models by a word on the command line, such as ``hf:FOLDER``."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmcert.integrations.image_model import ImageModel
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.integrations.smoothed import image_model_of

KINDS = {
    'hf': ('hf:FOLDER', 'a model of transformers, as save_pretrained wrote it'),
    'smp': ('smp:FOLDER', 'one of segmentation-models-pytorch, likewise'),
    'torchvision': ('torchvision:NAME:FILE', 'a state dict for an architecture of torchvision'),
    'onnx': ('onnx:FILE', 'a file for ONNX Runtime'),
    'py': ('py:FILE:NAME', 'what a function without arguments in a Python file returns: a module'),
}
"""How models are given, and what each is."""

EXTRAS = {
    'transformers': 'transformers',
    'segmentation_models_pytorch': 'smp',
    'torchvision': 'torchvision',
    'onnxruntime': 'onnx',
    'onnx': 'onnx',
}
"""The extra of mmcert that brings a library."""


@dataclass(frozen=True)
class InputOptions:
    """What happens to an image before the model, as far as it was said.

    Attributes:
        mean (Sequence[float] | None): See ``Preprocessing``.
        std (Sequence[float] | None): Likewise.
        pixel_range (float): Likewise.
        size (tuple[int, int] | None): Height and width to resize to.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    pixel_range: float = 1.0
    size: tuple[int, int] | None = None

    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing, if mean and std were given.

        Raises:
            ValueError: If one was given without the other.
        """
        if (self.mean is None) != (self.std is None):
            raise ValueError('--mean and --std belong together')
        if self.mean is None or self.std is None:
            return None
        return Preprocessing(self.mean, self.std, self.pixel_range, size=self.size)


def load_model(
    given: str, options: InputOptions | None = None, device: str | torch.device = 'cpu'
) -> ImageModel:
    """Loads a model.

    Args:
        given (str): What and where, see ``KINDS``.
        options (InputOptions | None): What happens to an image before it.
        device (str | torch.device): Where it goes.

    Raises:
        ValueError: If it cannot be loaded, or its library is not installed.
        OSError: If its files are not there.
    """
    place = _device(device)
    kind, _, where = given.partition(':')
    if kind not in KINDS or not where:
        known = ', '.join(form for form, _ in KINDS.values())
        hint = f': did you mean hf:{given}?' if Path(given).is_dir() else ''
        raise ValueError(f'a model is given as {known}; got {given!r}{hint}')
    try:
        model = _load(kind, where, options or InputOptions())
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name).partition('.')[0])
        if extra is None:
            raise
        raise ValueError(
            f"{kind}: needs {error.name}, which is not installed: pip install 'mmcert[{extra}]'"
        ) from error
    module = getattr(model, 'module', None)
    if module is not None and place.type != 'cpu':
        module.to(place)
        model.moved()  # type: ignore[attr-defined]
    return model


def _device(given: str | torch.device) -> torch.device:
    try:
        device = torch.device(given)
    except RuntimeError as error:
        raise ValueError(f'device must be cpu or cuda, got {given!r}') from error
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f'there is no device {given}: torch finds no CUDA here')
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'device {given} cannot be used: {reason}') from error
    return device


def _load(kind: str, where: str, options: InputOptions) -> ImageModel:
    preprocessing = options.preprocessing()
    if kind == 'hf':
        from mmcert.integrations import transformers

        return transformers.load(where, preprocessing, options.size)
    if kind in ('smp', 'torchvision'):
        return _without_size(kind, where, preprocessing, options)
    if kind == 'onnx':
        from mmcert.integrations import onnx

        return onnx.load(where, _required(preprocessing, kind))
    return _from_python(where, preprocessing)


def _without_size(
    kind: str, where: str, preprocessing: Preprocessing | None, options: InputOptions
) -> ImageModel:
    """Models that do not say what they want of an image."""
    if preprocessing is None and options.size is not None:
        raise ValueError(f'{kind}: --resize needs --mean and --std beside it')
    if kind == 'smp':
        from mmcert.integrations import smp

        return smp.load(where, preprocessing)
    from mmcert.integrations import torchvision

    architecture, _, path = where.partition(':')
    if not path:
        raise ValueError(f'a model of torchvision is torchvision:NAME:FILE, got {where!r}')
    return torchvision.load(architecture, path, preprocessing)


def _required(preprocessing: Preprocessing | None, kind: str) -> Preprocessing:
    if preprocessing is None:
        raise ValueError(
            f'{kind}: nothing says how images are normalised: give --mean and --std (0 and 1 for '
            'not at all)'
        )
    return preprocessing


@contextlib.contextmanager
def _code_of_the_user(where: str) -> Iterator[None]:
    """Says what was raised in a line: the traceback is for ``--debug``."""
    try:
        yield
    except Exception as error:
        raise ValueError(f'py:{where}: {type(error).__name__}: {error}') from error


def _from_python(where: str, preprocessing: Preprocessing | None) -> ImageModel:
    """What a function of a Python file returns."""
    path, _, name = where.rpartition(':')
    if not path or not Path(path).is_file():
        raise ValueError(f'py:FILE:NAME takes a Python file and a function in it, got py:{where}')
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _code_of_the_user(where):
        spec.loader.exec_module(module)
    build: Any = getattr(module, name, None)
    if not callable(build):
        raise ValueError(f'{path} has no function {name}')
    with _code_of_the_user(where):
        found = build()
    if isinstance(found, ImageModel):
        return found
    return image_model_of(found, _required(preprocessing, 'py'))
