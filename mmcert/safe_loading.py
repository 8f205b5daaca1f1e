"""Reads files of weights without running anything that they hold.

A checkpoint is a pickle, and unpickling can call any function that the file names. torch 2.6 and
later can read one and call nothing but what rebuilds tensors (``weights_only=True``); for earlier
ones, whose reader of this kind can be circumvented, a reader of our own allows the same names.
"""

from __future__ import annotations

import _compat_pickle
import codecs
import contextlib
import functools
import importlib
import os
import pickle
import re
import types
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
import torch

_torch_load = torch.load

_allowed: dict[str, Any] = {}
"""What ``allow_mmengine_checkpoints`` allows beside tensors and plain values, by full name."""


class UnsafeFileError(ValueError):
    """A file of weights holds something else, or is broken."""


def load_weights(
    file: str | os.PathLike[str] | IO[bytes], map_location: Any = 'cpu', mmap: bool | None = None
) -> Any:
    """Reads what ``torch.save`` wrote, if it is made of tensors and plain values.

    Args:
        file (str | os.PathLike | IO[bytes]): The file.
        map_location (Any): See ``torch.load``.
        mmap (bool | None): Likewise.

    Raises:
        UnsafeFileError: If it holds anything else, or cannot be read.
        OSError: If there is no such file.
    """
    options: dict[str, Any] = {} if mmap is None else {'mmap': mmap}
    try:
        if _torch_is_safe():
            return _torch_load(file, map_location=map_location, weights_only=True, **options)
        _refuse_programs(file)
        return _torch_load(
            file, map_location=map_location, pickle_module=_restricted_pickle(),
            weights_only=False, **options,
        )  # fmt: skip
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Whatever the unpickler meets in another kind of file.
        raise UnsafeFileError(_refusal(file, error)) from error


@contextlib.contextmanager
def only_weights() -> Iterator[None]:
    """Within it ``torch.load`` is ``load_weights``, whoever calls it and whatever they ask for.

    For libraries that read files for us: some fall back to unpickling everything.
    """

    def load(f: Any, map_location: Any = None, *_: Any, mmap: bool | None = None, **__: Any) -> Any:
        return load_weights(f, map_location, mmap)

    before = torch.load
    torch.load = load
    try:
        yield
    finally:
        torch.load = before


def allow_mmengine_checkpoints() -> None:
    """Has mmengine read every checkpoint by ``load_weights``, and allows what its own ones hold.

    These are the message hub's ``HistoryBuffer``, its statistics methods, and the NumPy scalars and
    arrays it holds, nothing broader. mmengine itself unpickles everything with torch before 2.6,
    and with any torch what it loads from the web; its fork ``onedl-mmengine`` does so whenever the
    careful way fails.
    """
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import CheckpointLoader, checkpoint

    if hasattr(checkpoint, 'get_torch_safe_globals'):
        # The fork allows more, and under the same names: ``getattr`` itself, and NumPy's types.
        checkpoint.get_torch_safe_globals = list
    _allow_history(HistoryBuffer)
    original = CheckpointLoader.load_checkpoint.__func__
    if getattr(original, 'reads_weights_only', False):
        return

    @functools.wraps(original)
    def load_checkpoint(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with only_weights():
            return original(cls, *args, **kwargs)

    load_checkpoint.reads_weights_only = True  # type: ignore[attr-defined]
    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


def _allow_history(buffer: Any) -> None:
    """Allows mmengine's ``HistoryBuffer`` and the arrays of numbers in it."""

    def statistics_method(owner: Any, name: str) -> Any:
        """Stands for the ``getattr`` by which a HistoryBuffer's methods are pickled."""
        if owner is not buffer or name.startswith('_'):
            raise pickle.UnpicklingError(f'the checkpoint wants {name!r} of {owner!r}: refused')
        return getattr(owner, name)

    named = {
        # Checkpoints name NumPy's module as the version that wrote them did.
        **{f'numpy.{core}.multiarray._reconstruct': _reconstruct for core in ('core', '_core')},
        **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
        'numpy.dtype': _NumberType,
        'numpy.ndarray': _Numbers,
        f'{buffer.__module__}.{buffer.__qualname__}': buffer,
        '__builtin__.getattr': statistics_method,
        'builtins.getattr': statistics_method,
    }
    if _torch_is_safe():
        torch.serialization.add_safe_globals([(value, name) for name, value in named.items()])
    _allowed.update(named)


class _NumberType:
    """Stands for ``numpy.dtype``: that of a number.

    NumPy trusts what it unpickles: where a type says so, bytes are pointers to objects.
    """

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind not in ('f8', 'f4', 'i8', 'i4', 'b1'):
            raise pickle.UnpicklingError(f'the checkpoint wants arrays of {kind!r}: refused')
        self.numpy = np.dtype(kind)

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if rest != [None, None, None, -1, -1, 0]:
            raise pickle.UnpicklingError(f'the checkpoint wants a type with {rest}: refused')
        self.numpy = self.numpy.newbyteorder(order)

    @classmethod
    def read(cls, kind: Any) -> Any:
        """The type of NumPy that one of these stands for."""
        if type(kind) is not cls:
            raise pickle.UnpicklingError(f'the checkpoint wants {kind!r} for a type: refused')
        return kind.numpy


class _Numbers(np.ndarray):
    """Stands for ``numpy.ndarray``: an array of numbers. It is stored as the array it is."""

    def __new__(cls, *_: Any) -> Any:
        raise pickle.UnpicklingError('the checkpoint wants an array without values: refused')

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, is_fortran, values = state
        super().__setstate__((version, shape, _NumberType.read(kind), is_fortran, values))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


def _reconstruct(kind: Any, *_: Any) -> Any:
    """Stands for NumPy's function of this name, which makes an array to be filled."""
    if kind is not _Numbers:
        raise pickle.UnpicklingError(f'the checkpoint wants {kind!r} as an array: refused')
    return np.ndarray.__new__(_Numbers, 0)


def _scalar(kind: Any, value: bytes) -> Any:
    """Stands for NumPy's function of this name, which makes a number."""
    return np.frombuffer(value, _NumberType.read(kind), count=1)[0]


def _torch_is_safe() -> bool:
    """Whether torch's own reader of weights can be relied on (CVE-2025-32434 in those before)."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)


def _refusal(file: Any, error: Exception) -> str:
    """What to say of a file that was not read."""
    name = getattr(file, 'name', file) if not isinstance(file, (str, os.PathLike)) else file
    unsafe = re.search(r'GLOBAL (\S+)', str(error))
    if unsafe is None:
        line = (str(error).strip().splitlines() or [''])[0]
        if 'Weights only' not in line:
            return f'{name} is no file of weights that can be read: {line}'
    what = f'it names {unsafe[1]}' if unsafe else 'it holds more than tensors and plain values'
    return (
        f'{name} is refused: {what}, and reading it could run any program. If the file is your '
        'own, keep its weights alone: torch.save({"state_dict": model.state_dict()}, FILE)'
    )


def _refuse_programs(file: Any) -> None:
    """Refuses TorchScript, which ``torch.load`` reads as such."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                raise pickle.UnpicklingError('this is a TorchScript program')
    if hasattr(file, 'seek'):
        file.seek(0)


@functools.cache
def _restricted_pickle() -> types.ModuleType:
    """What stands for the module ``pickle`` in ``torch.load``, with torch before 2.6."""
    weights = importlib.import_module('torch._weights_only_unpickler')
    plain = {
        'collections.OrderedDict': OrderedDict,
        'collections.Counter': Counter,
        'torch.device': torch.device,
        '_codecs.encode': codecs.encode,
        'builtins.bytearray': bytearray,
        'builtins.set': set,
        'builtins.complex': complex,
    }

    def tables() -> tuple[dict[str, Any], ...]:
        return plain, weights._get_allowed_globals(), _allowed

    def require(given: Any, allowed: Iterable[Any]) -> None:
        if not any(given is one for one in allowed):
            raise pickle.UnpicklingError(f'{given!r} is not to be used here')

    # The one in Python, since its instructions can be replaced.
    base: Any = pickle._Unpickler

    class Unpickler(base):
        dispatch = dict(base.dispatch)

        def find_class(self, module: str, name: str) -> Any:
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            full = f'{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}'
            for known in tables():
                if full in known:
                    return known[full]
            raise pickle.UnpicklingError(f'GLOBAL {full} is not allowed')

        def load_reduce(self) -> None:
            # What was called may have returned something else that can be called.
            require(self.stack[-2], (value for known in tables() for value in known.values()))
            super().load_reduce()

        def load_build(self) -> None:
            require(type(self.stack[-2]), (OrderedDict, *_allowed.values()))
            super().load_build()

        dispatch[pickle.REDUCE[0]] = load_reduce
        dispatch[pickle.BUILD[0]] = load_build

    module = types.ModuleType('pickle_of_weights')
    module.Unpickler = Unpickler  # type: ignore[attr-defined]
    module.load = lambda file, **options: Unpickler(file, **options).load()  # type: ignore[attr-defined]
    return module
