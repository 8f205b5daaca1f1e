"""The precision that a model computes in: part of what the base model is."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel

from mmcert.certifier.segmentor import autocast_dtype

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

COMPILE_MODES = ('default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs')


@dataclass(frozen=True)
class PrecisionSettings:
    """How the base model computes.

    A model in half precision, or compiled, gives other labels than the same weights in single
    precision: it is another base model, and the certificates say so.

    Attributes:
        precision (str): 'fp32', or 'bf16' or 'fp16' for autocast.
        channels_last (bool): Whether images and weights lie in memory with channels last.
        compile (bool | str): Whether ``torch.compile`` compiles backbone and neck; or its mode.
        cuda_graphs (bool): Whether backbone and neck are replayed as CUDA graphs.

    Raises:
        ValueError: If a value is not legal.
    """

    precision: str = 'fp32'
    channels_last: bool = False
    compile: bool | str = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.precision not in PRECISIONS:
            raise ValueError(
                f'precision must be one of {", ".join(PRECISIONS)}, got {self.precision!r}'
            )
        for name in ('channels_last', 'cuda_graphs'):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f'{name} must be True or False, got {getattr(self, name)!r}')
        if not isinstance(self.compile, bool) and self.compile not in COMPILE_MODES:
            raise ValueError(
                f'compile must be True, False or one of {", ".join(COMPILE_MODES)}, got '
                f'{self.compile!r}'
            )

    def spec(self) -> dict[str, Any]:
        """What differs from plain single precision, as JSON values, for fingerprints."""
        plain = vars(PrecisionSettings())
        return {name: value for name, value in vars(self).items() if value != plain[name]}

    def to_dict(self, device: torch.device) -> dict[str, Any]:
        """What a certificate says of the precision, as JSON values."""
        found = {**vars(self), 'device': device.type}
        outer = autocast_dtype(device.type)
        if self.precision == 'fp32' and outer is not None:
            # The test loop runs under autocast of its own (`test_cfg.fp16`).
            found['precision'] = str(outer).removeprefix('torch.')
        if device.type == 'cuda':
            found['tf32'] = {
                'convolutions': bool(torch.backends.cudnn.allow_tf32),
                'matrix_products': bool(torch.backends.cuda.matmul.allow_tf32),
            }
        return found

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The context to run the model in."""
        if self.precision == 'fp32':
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=PRECISIONS[self.precision])

    @contextlib.contextmanager
    def applied_to(self, base: BaseModel) -> Iterator[None]:
        """Prepares a model, and puts it back; meanwhile cuDNN's kernels are deterministic.

        Raises:
            ValueError: If the model's device cannot do what is asked.
        """
        device = next(base.parameters()).device
        if self.cuda_graphs and device.type != 'cuda':
            raise ValueError(f'cuda_graphs=True needs a CUDA device, the model is on {device}')
        if self.compile and device.type == 'cpu' and not _has_compiler():
            raise ValueError(
                'compile=True needs a C++ compiler on a CPU, and none was found (c++, g++, clang++ '
                'or $CXX)'
            )
        # An ensemble's parts are those of its members.
        parts = [(m.backbone, getattr(m, 'neck', None)) for m in getattr(base, 'members', [base])]
        modules = [module for part in parts for module in part if module is not None]
        if self.channels_last:
            base.to(memory_format=torch.channels_last)
        if options := self._compile_options():
            for module in modules:
                module.compile(**options)
        cudnn = torch.backends.cudnn
        before = cudnn.benchmark, cudnn.deterministic
        # Kernels that are chosen by timing them differ from process to process, and so do the last
        # bits of what they compute: votes could not be continued or shared.
        cudnn.benchmark, cudnn.deterministic = False, True
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before
            if options:
                for module in modules:
                    module._compiled_call_impl = None
            if self.channels_last:
                base.to(memory_format=torch.contiguous_format)

    def _compile_options(self) -> dict[str, Any]:
        if self.compile:
            mode = 'default' if self.compile is True else self.compile
            if self.cuda_graphs and mode == 'default':
                mode = 'reduce-overhead'
            return {'mode': mode}
        # A graph for each size of batch: one for all would be replayed at the wrong one.
        return {'backend': 'cudagraphs', 'dynamic': False} if self.cuda_graphs else {}


def _has_compiler() -> bool:
    return any(map(shutil.which, (os.environ.get('CXX', 'c++'), 'c++', 'g++', 'clang++')))
