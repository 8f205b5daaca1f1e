"""What the attacker may do: a law to draw from, and the radius that it buys.

torch only; the OpenMMLab registry meets these classes in ``mmcert.engine``.
"""

from collections.abc import Mapping
from typing import Any

from mmcert.perturbations.base import Perturbation, Requirement
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
    'Laplace',
    'LaplaceNoise',
    'Law',
    'LogScale',
    'Perturbation',
    'PointTransformation',
    'Requirement',
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
