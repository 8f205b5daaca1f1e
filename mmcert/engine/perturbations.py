"""Makes the perturbations known to configs, by ``type='mmcert.Name'``."""

from collections.abc import Mapping
from typing import Any

from mmcert.perturbations import CLASSES, Perturbation
from mmcert.registry import PERTURBATIONS


def build(cfg: Mapping[str, Any]) -> Perturbation:
    """Builds a perturbation from its config.

    Raises:
        ValueError: If its ``spec`` is that of another class: votes of one would be taken for votes
            of the other.
    """
    _add_registered()
    perturbation = PERTURBATIONS.build({**cfg, '_scope_': 'mmcert'})
    perturbation.address()
    return perturbation


def _add_registered() -> None:
    """Takes over what was registered since."""
    for name, cls in CLASSES.items():
        PERTURBATIONS.register_module(name=name, module=cls, force=True)


_add_registered()
