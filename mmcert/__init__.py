"""mmcert: certified robustness for OpenMMLab segmentation models.

Importing this package imports nothing else: ``mmcert.certify`` needs NumPy and SciPy only,
``mmcert.perturbations`` and ``mmcert.sampling`` add torch, and the other subpackages add the
OpenMMLab packages.
"""

from mmcert.version import __version__

__all__ = ['__version__']
