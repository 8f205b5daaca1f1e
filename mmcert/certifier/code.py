"""Digests of a model: its weights, code of the user's own, and what modules hold beside."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

LIBRARIES = (
    *(Path(sysconfig.get_paths()[name]).resolve() for name in ('stdlib', 'platstdlib')),
    Path(__file__).resolve().parents[1],
)
"""Folders of Python's own library, and of mmcert."""

PLAIN = (bool, int, float, complex, str, bytes, range, slice, type(None), type(...))

NO_VALUES = ('_torchdynamo_', 'name_or_path')
"""How attributes begin that hold numbers of objects, or say where weights were loaded from."""

OF_PROCESS = ('rank', 'local_rank', 'world_size', 'local_world_size')
"""What code and modules call the number of their process, and how many there are."""

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
        seen[id(one)] = one
        # Objects may raise whatever they are asked: of these only the class is seen.
        inside = {'class': type(one)}
        with contextlib.suppress(Exception):
            inside = _inside(one)
        waiting += inside.values()
        with contextlib.suppress(Exception):
            if _is_own(one):
                texts.add(_text(one, inside))
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
            said = _said(value, parts)
            usual_name = name in usual or _is_of_process(name) or name.startswith(NO_VALUES)
            if said is not None and not usual_name:
                lines.append(f'{place}.{name} {said}')
        if isinstance(part, torch.jit.ScriptModule):
            # Those of torch.jit.freeze are weights.
            code, constants = part.code_with_constants
            lines += [f'{place} {code}', *map(str, map(_said, constants.const_mapping.items()))]
        elif isinstance(part, torch.fx.GraphModule):
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
        # Not those of anything else: libraries keep in collections what they have met.
        found |= _elements(vars(thing))
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
            found |= _named(_names(thing.__code__), thing.__globals__)
    elif _is_own(type(thing)):
        found |= getattr(thing, '__dict__', {})
    return found if isinstance(thing, FunctionType) else {**found, 'class': type(thing)}


def _elements(held: dict[str, Any]) -> dict[str, Any]:
    """What is in the collections among some values, and in those in them."""
    found, waiting, seen = dict[str, Any](), list(held.items()), dict[int, Any]()
    while waiting:
        name, one = waiting.pop()
        if isinstance(one, (list, tuple, dict)) and id(one) not in seen:
            seen[id(one)] = one
            values = one.values() if isinstance(one, dict) else one
            inside = {f'{name} {place}': value for place, value in enumerate(values)}
            found |= inside
            waiting += inside.items()
    return found


def _named(names: set[str], where: dict[str, Any]) -> dict[str, Any]:
    """What names stand for in a module, and in the user's own modules that it has by name."""
    found, waiting, seen = dict[str, Any](), [('', where)], set[int]()
    while waiting:
        before, there = waiting.pop()
        if id(there) not in seen:
            seen.add(id(there))
            # In order: a module may be there under several names.
            here = {before + name: there[name] for name in sorted(names & there.keys())}
            found |= here
            waiting += [
                (f'{name}.', vars(one))
                for name, one in here.items()
                if isinstance(one, ModuleType)
                and (file := getattr(one, '__file__', None))
                and _is_of_user(file)
            ]
    return found


def _text(own: Any, inside: dict[str, Any]) -> str:
    """A function or class of the user's own, in words that are always the same."""
    code = _lines(own.__code__) if isinstance(own, FunctionType) else []
    values = [
        f'{name} {said}'
        for name in sorted(inside)
        if not _is_of_process(name) and (said := _said(inside[name]))
    ]
    return '\n'.join([own.__qualname__, *code, *values])


def _is_of_process(name: str) -> bool:
    """Whether something is named as what tells a process from the others of its run."""
    return name.rpartition('.')[2].strip('_').lower() in OF_PROCESS


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
    """A plain value, array or name in words that are always the same; None for anything else.

    Modules are their weights, unless they are ``parts`` of one that has a digest: some are where no
    state dict has them. Of a dict these alone count: models keep in such what they found earlier.
    """
    # Objects may raise whatever they are asked, and hold themselves.
    with contextlib.suppress(Exception):
        return _words(value, parts, paths)
    return None


def _words(value: Any, parts: frozenset[int], paths: bool) -> str | None:
    if isinstance(value, PLAIN):
        return None if isinstance(value, str) and os.sep in value and not paths else repr(value)
    if isinstance(value, nn.Module):
        return None if id(value) in parts else weights_digest(value)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return _words_of_array(value)
    if isinstance(value, dict):
        held = {str(key): one for key, one in value.items() if isinstance(one, nn.Module)}
        said = [f'{key} {_words(held[key], parts, paths)}' for key in sorted(held)]
        return ', '.join(said) if said else None
    if isinstance(value, (tuple, list)):
        return f'({", ".join(str(_words(one, parts, paths)) for one in value)})'
    if isinstance(value, (set, frozenset)):
        return f'{{{", ".join(sorted(str(_words(one, parts, paths)) for one in value))}}}'
    if (inside := _fields(value)) is not None:
        return _words(inside, parts, paths)
    return str(value) if isinstance(value, (enum.Enum, torch.dtype)) else _name(value)


def _fields(value: Any) -> list[Any] | None:
    """What makes up a partial function or a dataclass; None for anything else."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *sorted(value.keywords.items())]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value), *((item.name, getattr(value, item.name)) for item in fields(value))]
    return None


def _name(value: Any) -> str | None:
    """That of a function or class."""
    return getattr(value, '__qualname__', None) if callable(value) else None


def _words_of_array(value: torch.Tensor | NDArray[Any]) -> str | None:
    kind = f'{value.dtype} {tuple(value.shape)}'
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta:
            return None
        value = value.detach().cpu().contiguous().flatten()
        value = (value.int_repr() if value.is_quantized else value).view(torch.uint8).numpy()
    if value.dtype.hasobject:
        return None
    data = np.ascontiguousarray(value).tobytes()
    return f'{kind} {hashlib.blake2b(data, digest_size=8).hexdigest()}'
