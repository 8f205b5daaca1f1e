"""What lets the OpenMMLab packages run in the environments that mmcert supports.

Each is inert where it is not needed.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_EXTENSION = 'mmcv._ext'


class MissingCompiledOpError(RuntimeError):
    """A compiled mmcv operator was called, and the installed mmcv has none."""


class _MissingExtension(types.ModuleType):
    """A module of functions that raise ``MissingCompiledOpError``, under any public name."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise MissingCompiledOpError(
                f'the compiled mmcv operator {name!r} was called, but mmcv-lite is installed, '
                'which has none. Remedy: install the full mmcv in place of mmcv-lite '
                '(`make venv-full` builds such an environment), or use a model without this '
                'operator.'
            )

        missing.__name__ = name
        return missing


def enable_mmcv_lite() -> bool:
    """Lets packages that import ``mmcv.ops`` unguarded import on ``mmcv-lite``.

    mmsegmentation 1.2 and mmdetection3d 1.4 import it so, which fails on mmcv without its compiled
    extension. A stand-in for the extension lets them import; a compiled operator that is really
    called says what is missing. Call this before mmseg, mmdet or mmdet3d are imported. Does nothing
    when mmcv is not installed, has its extension, or was handled already; says once, in the
    log at level INFO, when it acted.

    Returns:
        bool: Whether the stand-in is in place after the call.
    """
    if isinstance(sys.modules.get(_EXTENSION), _MissingExtension):
        return True
    if _EXTENSION in sys.modules or importlib.util.find_spec('mmcv') is None:
        return False
    # find_spec('mmcv._ext') would import mmcv; the finder on mmcv's own folder does not.
    locations = importlib.util.find_spec('mmcv').submodule_search_locations  # type: ignore[union-attr]
    if importlib.machinery.PathFinder.find_spec(_EXTENSION, locations) is not None:
        return False
    module = _MissingExtension(_EXTENSION)
    module.__spec__ = importlib.machinery.ModuleSpec(_EXTENSION, loader=None)
    module.__file__ = __file__
    sys.modules[_EXTENSION] = module
    logging.getLogger('mmcert').info(
        'mmcv-lite is installed: its compiled operators are replaced by stand-ins that raise '
        'an error when a model calls one.'
    )
    return True


def reuse_freed_memory() -> bool:
    """Lets the C library keep the memory that models on the CPU free, for the next layer to use.

    By default glibc maps blocks above 32 MiB afresh for every tensor and the kernel clears their
    pages one by one, which took 40 % of a Fast-SCNN's time at batches of 8. The process keeps its
    peak memory until it ends.

    Returns:
        bool: Whether the C library took the setting; others than glibc have none such.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
    return bool(mallopt(mmap_threshold, largest)) and bool(mallopt(trim_threshold, largest))


@contextlib.contextmanager
def distributed_cpu(cfg: Any) -> Iterator[None]:
    """Lets several processes (``--launcher pytorch``) run on a machine without a GPU.

    mmengine asks for a CUDA device without looking whether there is one. This joins the process
    group with the gloo backend before that, has models wrapped without device numbers, and leaves
    the group when all processes are done: one that exits with gloo's threads alive takes the others
    with it. Does nothing with another launcher or with a GPU.

    Args:
        cfg (mmengine.config.Config): Config with ``launcher``; gets a ``model_wrapper_cfg``.
    """
    import torch

    if cfg.launcher != 'pytorch' or torch.cuda.is_available():
        yield
        return
    torch.distributed.init_process_group(backend='gloo')
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', 'device_ids': None}
    try:
        yield
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def resume_from_work_dir(cfg: Any) -> None:
    """Has a run continue from its work folder, or start if there is nothing to continue.

    mmengine takes ``resume`` together with ``load_from`` for continuing from the *latter*, which is
    what a fine-tuned model starts from.

    Args:
        cfg (mmengine.config.Config): With ``work_dir``; changed in place.
    """
    from mmengine.runner import find_latest_checkpoint

    # It warns where there is no record yet.
    recorded = (Path(cfg.work_dir) / 'last_checkpoint').exists()
    latest = find_latest_checkpoint(cfg.work_dir) if recorded else None
    cfg.resume = latest is not None
    if latest is not None:
        cfg.load_from = latest
