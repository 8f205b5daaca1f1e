"""The libraries that are certified, where they are installed.

``python -m tests.integrations.libraries certify --model hf:FOLDER ...`` is ``mmcert`` beside them.
"""

import functools
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(sys.prefix) / 'frameworks'
"""Where `make venv-test` puts them: not into the environment, where OpenMMLab would import them."""

OPERATORS = (
    'nms', 'qnms', 'roi_align', 'roi_pool', 'ps_roi_align', 'ps_roi_pool', 'deform_conv2d',
    '_roi_align_backward', '_roi_pool_backward', '_ps_roi_align_backward',
    '_ps_roi_pool_backward', '_deform_conv2d_backward',
)  # fmt: skip
"""Compiled operators of torchvision, of which no segmentor uses any."""


def library(name, folder=FOLDER):
    """A library, from that folder if it is not installed; skips where it is in neither."""
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    _declare_operators()
    return pytest.importorskip(name, reason=f'needs {name}, see requirements/frameworks.txt')


@functools.cache
def _declare_operators():
    """Lets torchvision be imported beside a torch for CPUs alone.

    The wheels of the package index have operators that need CUDA. Where they cannot be loaded,
    torchvision asks for their names all the same.
    """
    if torch.version.cuda is None:
        declared = torch.library.Library('torchvision', 'FRAGMENT')
        for operator in OPERATORS:
            declared.define(f'{operator}() -> Tensor')
        return declared  # It lives as long as it is kept.
    return None


if __name__ == '__main__':
    from mmcert.commands.main import main

    library('transformers')
    sys.exit(main())
