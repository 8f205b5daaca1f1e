"""The 15 common corruptions of images and 4 more, by the package imagecorruptions-imaug.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019; for images of any size by Michaelis et al., "Benchmarking robustness in
object detection: autonomous driving when winter is coming", 2019, in the package
``imagecorruptions``. The maintained fork of that, ``imagecorruptions-imaug``, runs with NumPy 2.

The package draws from NumPy's global generator, two of its functions from generators of their own,
which without a seed take one from the system. Here all of them are seeded for each image, and the
global generator is given back as it was.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import torch

from mmcert.corruptions.base import Corrupted, Corruption

DISTRIBUTION = 'imagecorruptions-imaug'

COMMON = {
    'gaussian_noise': 'noise',
    'shot_noise': 'noise',
    'impulse_noise': 'noise',
    'defocus_blur': 'blur',
    'glass_blur': 'blur',
    'motion_blur': 'blur',
    'zoom_blur': 'blur',
    'snow': 'weather',
    'frost': 'weather',
    'fog': 'weather',
    'brightness': 'weather',
    'contrast': 'digital',
    'elastic_transform': 'digital',
    'pixelate': 'digital',
    'jpeg_compression': 'digital',
}
"""The 15 common corruptions and their categories, as published."""

EXTRA = {
    'speckle_noise': 'noise',
    'gaussian_blur': 'blur',
    'spatter': 'weather',
    'saturate': 'digital',
}
"""The four that the authors keep apart, for validation."""

SMALLEST = 32
"""Sides of an image must have so many pixels."""

OWN_GENERATORS = ('impulse_noise', 'glass_blur')
"""Corruptions that take their seed as an argument."""


@dataclass(frozen=True)
class ImageCorruption(Corruption):
    """A corruption of 8-bit colour images, as the package computes it.

    Severities are those of the benchmark, whatever the size of the image: they are not scaled. The
    result is cut down to whole levels of 0-255, as the package does.

    Attributes:
        bgr (bool): Whether channels come in the order blue, green, red, as mmsegmentation's
            pipelines have it.
    """

    domain: ClassVar[str] = 'image'
    source: ClassVar[str] = 'Hendrycks and Dietterich, ICLR 2019'

    bgr: bool = True

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is no 8-bit colour image of 32 x 32 pixels or more."""
        if inputs.ndim != 3 or len(inputs) != 3 or min(inputs.shape[1:]) < SMALLEST:
            raise ValueError(
                f'{self.name} takes colour images (3, H, W) with sides of at least {SMALLEST} '
                f'pixels, got {tuple(inputs.shape)}'
            )
        values = inputs.double()
        if not bool(((values == values.round()) & (values >= 0) & (values <= 255)).all()):
            raise ValueError(
                f'{self.name} takes 8-bit images, whole numbers from 0 to 255, got values from '
                f'{float(values.min()):.4g} to {float(values.max()):.4g}: leave normalisation to '
                "the model's data preprocessor"
            )

    def _apply(self, inputs: torch.Tensor, severity: int, seed: int) -> Corrupted:
        corrupt = library().corrupt
        pixels = inputs.to('cpu', torch.uint8).numpy().transpose(1, 2, 0)
        pixels = np.ascontiguousarray(pixels[..., ::-1] if self.bgr else pixels)
        options = {'seed': seed} if self.name in OWN_GENERATORS else {}
        # It prints where it has met an exception of its own.
        with _seeded(seed), contextlib.redirect_stdout(io.StringIO()):
            found = corrupt(pixels, severity=severity, corruption_name=self.name, **options)
        found = found[..., ::-1] if self.bgr else found
        tensor = torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1)))
        return Corrupted(tensor.to(inputs))


def library() -> Any:
    """The module of the package.

    Raises:
        RuntimeError: If it is not there.
    """
    try:
        # Its predecessor has a module of the same name, which does not run with NumPy 2.
        metadata.version(DISTRIBUTION)
        import imagecorruptions
    except ImportError as error:
        raise RuntimeError(
            f'corruptions of images need the package {DISTRIBUTION}: install it, for example by '
            "pip install 'mmcert[corruptions]'"
        ) from error
    return imagecorruptions


def versions() -> dict[str, str]:
    """Versions of what decides how a corrupted image looks.

    Raises:
        RuntimeError: If the package is not there.
    """
    library()
    found = {}
    for name in (DISTRIBUTION, 'numpy', 'scipy', 'scikit-image', 'pillow', 'numba'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    import cv2

    return {**found, 'opencv': cv2.__version__}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator seeded, and afterwards as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
