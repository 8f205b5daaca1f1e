"""Denoisers in front of a segmentor: parts of the smoothed function.

torch only; diffusers is imported where a model of it is loaded.
"""

from mmcert.denoisers.base import Denoiser, Denoising, load_denoiser, save_denoiser
from mmcert.denoisers.diffusion import DiffusionDenoiser
from mmcert.denoisers.networks import DnCNN, UNetDenoiser

CLASSES: dict[str, type[Denoiser]] = {
    cls.__name__: cls for cls in (DiffusionDenoiser, DnCNN, UNetDenoiser)
}
"""Denoisers that configs can name."""

__all__ = [
    'CLASSES',
    'Denoiser',
    'Denoising',
    'DiffusionDenoiser',
    'DnCNN',
    'UNetDenoiser',
    'load_denoiser',
    'save_denoiser',
]
