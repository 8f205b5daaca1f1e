"""Makes the perturbations known to configs, by ``type='mmcert.Name'``."""

import inspect
from collections.abc import Mapping
from typing import Any

from mmcert.perturbations import CLASSES, Perturbation
from mmcert.registry import PERTURBATIONS


def build(cfg: Mapping[str, Any]) -> Perturbation:
    """Builds a perturbation from its config.

    Raises:
        ValueError: If it has a key that its class does not take, or lacks one; or its ``spec`` is
            that of another class: votes of one would be taken for votes of the other.
    """
    _add_registered()
    if not isinstance(cfg, Mapping):
        raise ValueError(f'perturbation must be a dict with a type, got {cfg!r}')
    _check_keys(cfg)
    perturbation = PERTURBATIONS.build({**cfg, '_scope_': 'mmcert'})
    perturbation.address()
    return perturbation


def _check_keys(cfg: Mapping[str, Any]) -> None:
    name = str(cfg.get('type'))
    cls = CLASSES.get(name.rpartition('.')[2])
    if cls is None:
        if isinstance(cfg.get('type'), str) and PERTURBATIONS.get(name) is None:
            known = ', '.join(sorted(CLASSES))
            raise ValueError(f'unknown perturbation {name!r}; known: {known}')
        return
    parameters = inspect.signature(cls).parameters
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return
    known = ', '.join(parameters)
    if unknown := sorted(cfg.keys() - parameters.keys() - {'type', '_scope_'}):
        raise ValueError(
            f'{cls.__name__} has no {", ".join(unknown)}; it takes {known}. To replace a dict of a '
            'base config rather than add to it, set _delete_=True in it'
        )
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in cfg]
    if missing:
        raise ValueError(f'{cls.__name__} needs {", ".join(missing)}; it takes {known}')


def _add_registered() -> None:
    """Takes over what was registered since."""
    for name, cls in CLASSES.items():
        PERTURBATIONS.register_module(name=name, module=cls, force=True)


_add_registered()
