"""What the attacker may do: a law to draw from, and the radius that it buys.

torch only; the OpenMMLab registry meets these classes in ``mmcert.engine``.
"""

from mmcert.perturbations.base import Perturbation
from mmcert.perturbations.gaussian import GaussianNoise

__all__ = ['GaussianNoise', 'Perturbation']
