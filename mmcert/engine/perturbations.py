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
    name, said = type(perturbation).__name__, perturbation.spec().get('type')
    if said != name:
        raise ValueError(
            f'{name}.spec() says that its type is {said!r}, so that its votes would be taken for '
            f"those of {said}: return {{**super().spec(), 'type': '{name}'}}, with all arguments "
            'that the draws depend on'
        )
    return perturbation


def _add_registered() -> None:
    """Takes over what was registered since."""
    for name, cls in CLASSES.items():
        PERTURBATIONS.register_module(name=name, module=cls, force=True)


_add_registered()
