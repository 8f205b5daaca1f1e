"""What the attacker may do: a law to draw from, and the radius that it buys.

torch only; the OpenMMLab registry meets these classes in ``mmcert.engine``.
"""

from collections.abc import Mapping
from typing import Any

from mmcert.perturbations.base import InputThreshold, Perturbation
from mmcert.perturbations.clouds import (
    AxisRotation,
    CoordinateNoise,
    LogScale,
    PointTransformation,
    Rotation3D,
    RotationScale,
    Shear,
    Taper,
    Translation,
    Twist,
    TwistRotation,
    check_scale,
)
from mmcert.perturbations.gaussian import GaussianNoise
from mmcert.perturbations.images import (
    BrightnessContrast,
    CyclicTranslation,
    GaussianBlur,
    ImageTransformation,
    LaplaceNoise,
)
from mmcert.perturbations.laws import (
    LAWS,
    Exponential,
    FoldedNormal,
    Gaussian,
    Laplace,
    Law,
    Uniform,
    build_law,
)
from mmcert.perturbations.slices import SlicedTransformation
from mmcert.perturbations.surrogate import SurrogateTransform

__all__ = [
    'CLASSES',
    'LAWS',
    'AxisRotation',
    'BrightnessContrast',
    'CoordinateNoise',
    'CyclicTranslation',
    'Exponential',
    'FoldedNormal',
    'Gaussian',
    'GaussianBlur',
    'GaussianNoise',
    'ImageTransformation',
    'InputThreshold',
    'Laplace',
    'LaplaceNoise',
    'Law',
    'LogScale',
    'Perturbation',
    'PointTransformation',
    'Rotation3D',
    'RotationScale',
    'Shear',
    'SlicedTransformation',
    'SurrogateTransform',
    'Taper',
    'Translation',
    'Twist',
    'TwistRotation',
    'Uniform',
    'build_law',
    'check_scale',
    'from_spec',
    'register',
]

CLASSES: dict[str, type[Perturbation]] = {
    cls.__name__: cls
    for cls in (
        GaussianNoise,
        LaplaceNoise,
        GaussianBlur,
        BrightnessContrast,
        CyclicTranslation,
        SurrogateTransform,
        SlicedTransformation,
        CoordinateNoise,
        AxisRotation,
        Rotation3D,
        Translation,
        LogScale,
        Shear,
        Twist,
        Taper,
        TwistRotation,
        RotationScale,
    )
}
"""All perturbations by name: what configs and stored votes may speak of."""


def register(cls: type[Perturbation]) -> type[Perturbation]:
    """Makes a perturbation known by its name, so that stored votes of it can be asked.

    Args:
        cls (type): A perturbation whose ``spec`` gives its class name as ``type``, and the
            arguments of the class.

    Returns:
        type: The same class: use this as a decorator.

    Raises:
        ValueError: If another class has the name.
    """
    if CLASSES.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f'there is another perturbation of the name {cls.__name__!r}')
    return cls


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
        raise ValueError(
            f'unknown perturbation {name!r}; known: {", ".join(sorted(CLASSES))}. One of your own '
            'must be registered (mmcert.perturbations.register) by a module that is imported first'
        )
    return CLASSES[name](**arguments)
