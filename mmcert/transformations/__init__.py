"""Semantic transformations of images: what an attacker may do to a picture, batched in torch.

Images are (B, C, H, W), floating point in [0, 1]; parameters (B, P) or (P,) in the units that each
class names. torch only; OpenCV is loaded when a JPEG is made.
"""

from collections.abc import Mapping
from typing import Any

from mmcert.transformations.base import (
    IGNORE_INDEX,
    Parameter,
    Transformation,
    check_images,
    check_labels,
)
from mmcert.transformations.blurs import (
    DefocusBlur,
    GaussianFilter,
    MotionBlur,
    RotationalBlur,
    ZoomBlur,
)
from mmcert.transformations.geometry import (
    AboutCentre,
    Geometric,
    Rotation,
    RotationScaling,
    Scaling,
    Shift,
)
from mmcert.transformations.photometric import (
    JPEG,
    Brightness,
    BrightnessThenContrast,
    Contrast,
    Gamma,
    Pixelate,
)

__all__ = [
    'IGNORE_INDEX',
    'JPEG',
    'TRANSFORMATIONS',
    'AboutCentre',
    'Brightness',
    'BrightnessThenContrast',
    'Contrast',
    'DefocusBlur',
    'Gamma',
    'GaussianFilter',
    'Geometric',
    'MotionBlur',
    'Parameter',
    'Pixelate',
    'Rotation',
    'RotationScaling',
    'RotationalBlur',
    'Scaling',
    'Shift',
    'Transformation',
    'ZoomBlur',
    'build',
    'check_images',
    'check_labels',
]

TRANSFORMATIONS: dict[str, type[Transformation]] = {
    cls.name: cls
    for cls in (
        GaussianFilter,
        Brightness,
        Contrast,
        BrightnessThenContrast,
        Gamma,
        Shift,
        Rotation,
        Scaling,
        RotationScaling,
        RotationalBlur,
        DefocusBlur,
        ZoomBlur,
        MotionBlur,
        Pixelate,
        JPEG,
    )
}
"""All transformations by name."""


def build(cfg: Mapping[str, Any] | str) -> Transformation:
    """Builds a transformation from a config, or from what its ``spec`` returned.

    Args:
        cfg (Mapping | str): ``type`` and the arguments of the class, or the name alone.

    Raises:
        ValueError: If the type or an argument is not known, or an argument is not legal.

    Example:
        >>> build(dict(type='rotation', padding='zeros'))
        Rotation(padding='zeros')
    """
    arguments = {'type': cfg} if isinstance(cfg, str) else dict(cfg)
    name = arguments.pop('type', None)
    if name not in TRANSFORMATIONS:
        raise ValueError(f'unknown transformation {name!r}; known: {", ".join(TRANSFORMATIONS)}')
    try:
        return TRANSFORMATIONS[name](**arguments)
    except TypeError as error:
        raise ValueError(f'{name}: {error}') from error
