"""Digests of a model: its weights, code of the user's own, and what modules hold beside."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

LIBRARIES = (
    *(Path(sysconfig.get_paths()[name]).resolve() for name in ('stdlib', 'platstdlib')),
    Path(__file__).resolve().parents[1],
)
"""Folders of Python's own library, and of mmcert."""

PLAIN = (bool, int, float, complex, str, bytes, type(None))

CARRIERS = (
    FunctionType, MethodType, classmethod, staticmethod, property, functools.partial,
    type(functools.lru_cache(len)),
)  # fmt: skip
"""What calls a function that it holds, in one of ``HELD``."""

HELD = ('__func__', '__wrapped__', 'fget', 'func')

EMPTY = CellType()
"""What an enclosing function has not assigned yet."""


def code_digest(*objects: Any) -> str:
    """Digest of the code of the user's own that modules, objects or functions run; or ''.

    That are their classes, functions set on them, hooks of modules, what these name, and plain
    values that they name. It is made of what Python runs, so comments change nothing, and other
    versions of Python have other digests. Code of installed libraries is left out. What is reached
    in other ways is not seen: a digest that stays the same is no proof.

    >>> code_digest(nn.Conv2d(3, 2, 1))  # All of it is torch's.
    ''
    """
    waiting, texts = list(objects), set()
    # Kept, so that no two have one number.
    seen: dict[int, Any] = {}
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)], inside = one, _inside(one)
        waiting += inside.values()
        if _is_own(one):
            code = _lines(one.__code__) if isinstance(one, FunctionType) else []
            values = [f'{name} {said}' for name in sorted(inside) if (said := _said(inside[name]))]
            texts.add('\n'.join([one.__qualname__, *code, *values]))
    return _digest(sorted(texts)) if texts else ''


def attributes_digest(module: nn.Module) -> str:
    """Digest of plain values, arrays and names of functions that a module and its parts hold.

    Not all are in what a module prints: neither the heads of an attention nor ``align_corners``.
    Text with a path in it is left out.

    >>> one, other = (nn.Upsample(scale_factor=2, align_corners=value) for value in (True, False))
    >>> repr(one) == repr(other), attributes_digest(one) == attributes_digest(other)
    (True, False)
    """
    usual, lines = vars(nn.Module()).keys(), []
    parts = frozenset(map(id, module.modules()))
    for place, part in module.named_modules():
        for name, value in sorted(vars(part).items()):
            is_function = callable(value) and not isinstance(value, nn.Module)
            said = getattr(value, '__qualname__', None) if is_function else _said(value, parts)
            # What torch.compile leaves has numbers of objects in it.
            if name not in usual and said is not None and name[:13] != '_torchdynamo_':
                lines.append(f'{place}.{name} {said}')
        if isinstance(part, torch.jit.ScriptModule):
            lines.append(f'{place} {part.code}')
    return _digest(lines)


def weights_digest(model: nn.Module) -> str:
    """Digest of all parameters and buffers of a model, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    # Buffers outside the state dict, such as the preprocessor's mean, change the output too.
    tensors = dict(model.named_buffers()) | dict(model.state_dict())
    for key, value in sorted(tensors.items()):
        tensor = value.detach().contiguous().cpu()
        digest.update(f'{key}{tensor.dtype}{tuple(tensor.shape)}'.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b('\n'.join(lines).encode(), digest_size=8).hexdigest()


def _inside(thing: Any) -> dict[str, Any]:
    """What something that runs has in it, or names; nothing of anything else."""
    if not (callable(thing) or isinstance(thing, CARRIERS)):
        return {}
    # Other objects may have anything under any name.
    held = HELD if isinstance(thing, CARRIERS) else ()
    found = {name: getattr(thing, name, None) for name in held}
    if isinstance(thing, type):
        members = vars(thing).items()
        found = {name: one for name, one in members if name[:2] != '__' or callable(one)}
        found |= {f'base {place}': base for place, base in enumerate(thing.__bases__)}
    elif isinstance(thing, nn.Module):
        hooks = {**thing._forward_hooks, **thing._forward_pre_hooks}
        found |= {**vars(thing), **thing._modules, **{str(key): one for key, one in hooks.items()}}
    elif isinstance(thing, functools.partial):
        found |= {**thing.keywords, **{str(place): one for place, one in enumerate(thing.args)}}
    elif isinstance(thing, FunctionType):
        names, cells = thing.__code__.co_freevars, thing.__closure__ or ()
        # A decorator of a library holds what it decorates. Cells are empty while a class is made.
        found |= {
            name: cell.cell_contents
            for name, cell in zip(names, cells, strict=True)
            if cell != EMPTY
        }
        found |= thing.__kwdefaults__ or {}
        found |= {f'default {place}': one for place, one in enumerate(thing.__defaults__ or ())}
        if _is_own(thing):
            named = _names(thing.__code__) & thing.__globals__.keys()
            found |= {name: thing.__globals__[name] for name in named}
    return found if isinstance(thing, FunctionType) else {**found, 'class': type(thing)}


def _is_own(thing: Any) -> bool:
    """Whether a function or class is from no installed library; those of notebooks have no file."""
    if isinstance(thing, FunctionType):
        name = thing.__globals__.get('__file__') or thing.__code__.co_filename
    elif isinstance(thing, type):
        module = sys.modules.get(thing.__module__)
        if module is None:
            # Loaded from a file by itself, or made by a compiled library.
            return any(isinstance(one, FunctionType) for one in vars(thing).values())
        if thing.__module__ == '__main__':
            return True
        # Modules without a file are built into Python.
        name = getattr(module, '__file__', None) or str(LIBRARIES[0] / 'builtins')
    else:
        return False
    return _is_of_user(name)


@functools.cache
def _is_of_user(file: str) -> bool:
    return not any(map(_holds_libraries, Path(file).resolve().parents))


@functools.cache
def _holds_libraries(folder: Path) -> bool:
    """Whether pip or a distribution has installed libraries into a folder."""
    installed = folder.name in ('site-packages', 'dist-packages')
    return folder in LIBRARIES or installed or any(folder.glob('*.dist-info'))


def _lines(code: CodeType) -> list[str]:
    """What Python runs, without where it stands."""
    lines = [code.co_code.hex(), *code.co_names]
    for value in code.co_consts:
        lines += _lines(value) if isinstance(value, CodeType) else [f'{_said(value, paths=True)}']
    return lines


def _names(code: CodeType) -> set[str]:
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return {*code.co_names}.union(*map(_names, inner))


def _said(value: Any, parts: frozenset[int] = frozenset(), paths: bool = False) -> str | None:
    """A plain value or an array in words that are always the same; None for anything else.

    Modules are their weights, unless they are ``parts`` of one that has a digest: some are where no
    state dict has them. Of a dict these alone count: models keep in such what they found earlier.
    """
    if isinstance(value, PLAIN):
        return None if isinstance(value, str) and os.sep in value and not paths else repr(value)
    if isinstance(value, nn.Module):
        return None if id(value) in parts else weights_digest(value)
    if isinstance(value, dict):
        held = {str(key): one for key, one in value.items() if isinstance(one, nn.Module)}
        said = [f'{key} {_said(held[key], parts)}' for key in sorted(held)]
        return ', '.join(said) if said else None
    if isinstance(value, (tuple, list)):
        return f'({", ".join(str(_said(one, parts, paths)) for one in value)})'
    if isinstance(value, (set, frozenset)):
        return f'{{{", ".join(sorted(str(_said(one, parts, paths)) for one in value))}}}'
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
        value = value.detach().cpu().contiguous().flatten()
        value = (value.int_repr() if value.is_quantized else value).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = np.ascontiguousarray(value).tobytes()
        return f'{value.dtype} {value.shape} {hashlib.blake2b(data, digest_size=8).hexdigest()}'
    return str(value) if isinstance(value, torch.dtype) else None
