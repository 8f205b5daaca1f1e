"""Makes the perturbations known to configs, by ``type='mmcert.Name'``."""

from mmcert.perturbations import GaussianNoise
from mmcert.registry import PERTURBATIONS

PERTURBATIONS.register_module(module=GaussianNoise)
