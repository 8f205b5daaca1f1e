"""mmcert: certified robustness for segmentation models.

Importing this package imports nothing else: ``mmcert.certify`` needs NumPy and SciPy only,
``mmcert.perturbations`` and ``mmcert.sampling`` add torch, and the other subpackages add the
OpenMMLab packages. ``mmcert.smooth`` certifies any PyTorch segmentor of images.
"""

from typing import Any

from mmcert.version import __version__

__all__ = ['__version__', 'smooth']


def __getattr__(name: str) -> Any:
    """Imports ``smooth`` when it is asked for."""
    if name == 'smooth':
        from mmcert.integrations import smooth

        return smooth
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
