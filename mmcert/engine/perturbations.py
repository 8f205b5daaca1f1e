"""Makes the perturbations known to configs, by ``type='mmcert.Name'``."""

from mmcert.perturbations import CLASSES
from mmcert.registry import PERTURBATIONS

for name, cls in CLASSES.items():
    PERTURBATIONS.register_module(name=name, module=cls)
