"""What the attacker may do: perturbations to draw from, and the radius that they buy.

torch only; the OpenMMLab registry meets these classes in ``mmcert.engine``. The registry is open:
``register`` a perturbation of your own, and it certifies, stores votes and answers offline like
those here.
"""

from mmcert.perturbations.base import (
    CLASSES,
    Guarantee,
    InputThreshold,
    Perturbation,
    from_spec,
    register,
)
from mmcert.perturbations.cells import TransformationCells
from mmcert.perturbations.clouds import (
    AxisRotation,
    LogScale,
    PointTranslation,
    Rotation3D,
    RotationScale,
    Shear,
    Taper,
    Twist,
    TwistRotation,
)
from mmcert.perturbations.distributions import (
    DISTRIBUTIONS,
    Distribution,
    Exponential,
    FoldedNormal,
    Gaussian,
    Laplace,
    Uniform,
    build_distribution,
)
from mmcert.perturbations.enumeration import Enumeration
from mmcert.perturbations.images import (
    BrightnessContrast,
    CyclicTranslation,
    GaussianBlur,
)
from mmcert.perturbations.noise import (
    AdditiveNoise,
    CoordinateNoise,
    GaussianNoise,
    LaplaceNoise,
    PointNoise,
)
from mmcert.perturbations.partition import CellTest, Partition, Reading
from mmcert.perturbations.pooled_noise import PooledNoise
from mmcert.perturbations.surrogate import SurrogateTransform

__all__ = [
    'CLASSES',
    'DISTRIBUTIONS',
    'AdditiveNoise',
    'AxisRotation',
    'BrightnessContrast',
    'CellTest',
    'CoordinateNoise',
    'CyclicTranslation',
    'Distribution',
    'Enumeration',
    'Exponential',
    'FoldedNormal',
    'Gaussian',
    'GaussianBlur',
    'GaussianNoise',
    'Guarantee',
    'InputThreshold',
    'Laplace',
    'LaplaceNoise',
    'LogScale',
    'Partition',
    'Perturbation',
    'PointNoise',
    'PointTranslation',
    'PooledNoise',
    'Reading',
    'Rotation3D',
    'RotationScale',
    'Shear',
    'SurrogateTransform',
    'Taper',
    'TransformationCells',
    'Twist',
    'TwistRotation',
    'Uniform',
    'build_distribution',
    'from_spec',
    'register',
]
