"""What the attacker may do: a law to draw from, and the radius that it buys.

torch only; the OpenMMLab registry meets these classes in ``mmcert.engine``.
"""

from collections.abc import Mapping
from typing import Any

from mmcert.perturbations.base import Perturbation
from mmcert.perturbations.gaussian import GaussianNoise

__all__ = ['CLASSES', 'GaussianNoise', 'Perturbation', 'from_spec']

CLASSES: dict[str, type[Perturbation]] = {'GaussianNoise': GaussianNoise}
"""All perturbations by name: what configs and stored votes may speak of."""


def from_spec(spec: Mapping[str, Any]) -> Perturbation:
    """Builds a perturbation from what its ``spec`` returned, as stored with votes.

    Args:
        spec (Mapping): ``type`` and the arguments of the class.

    Returns:
        Perturbation: An equal one.

    Raises:
        ValueError: If the type is not known.
    """
    arguments = dict(spec)
    name = arguments.pop('type', None)
    if name not in CLASSES:
        raise ValueError(f'unknown perturbation {name!r}; known: {", ".join(sorted(CLASSES))}')
    return CLASSES[name](**arguments)
