"""Pipeline transforms that train a model to withstand noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmcert.perturbations.noise_level import validate_sigma_range
from mmcert.registry import TRANSFORMS


@TRANSFORMS.register_module()
class AddGaussianNoise(BaseTransform):
    """Adds i.i.d. Gaussian noise to the image, as randomized smoothing will at test time.

    Place it where the certificate's noise acts: on the image as loaded, before normalisation (and
    before any resizing that the smoothed function does). The result is float32 and not clipped.

    Required and modified key: ``img`` (uint8 or float array (H, W, C) in 0-255).

    Args:
        sigma (float | Sequence[float]): Noise level in [0, 1] image units, or a range (low, high)
            from which each image draws its own uniformly.
        prob (float): Share of the images that get noise; the others stay clean.

    Raises:
        ValueError: If ``sigma`` or ``prob`` is out of range.
    """

    def __init__(self, sigma: float | Sequence[float], prob: float = 1.0) -> None:
        self.low, self.high = validate_sigma_range(sigma)
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must lie in [0, 1], got {prob}')
        self.prob = prob

    @cache_randomness
    def _draw_sigma(self) -> float:
        if np.random.random() >= self.prob:
            return 0.0
        return float(np.random.uniform(self.low, self.high))

    def transform(self, results: dict) -> dict:
        """Adds noise to ``results['img']`` in place of the clean image."""
        sigma = self._draw_sigma()
        image = results['img']
        if sigma > 0:
            # mmengine seeds the legacy NumPy generator of each worker; a Generator seeded from it
            # draws float32 normals several times faster.
            rng = np.random.Generator(np.random.SFC64(np.random.randint(2**31)))
            noise = rng.standard_normal(image.shape, dtype=np.float32)
            results['img'] = image.astype(np.float32) + np.float32(255.0 * sigma) * noise
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sigma=({self.low}, {self.high}), prob={self.prob})'
