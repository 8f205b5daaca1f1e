"""Training noise on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.data_preprocessor import SegDataPreProcessor

from mmcert.perturbations.noise_level import validate_prob, validate_sigma_range
from mmcert.registry import MODELS


@MODELS.register_module()
class NoisySegDataPreProcessor(SegDataPreProcessor):
    """mmsegmentation's preprocessor with Gaussian noise on the training images.

    The noise is added on the model's device, before normalisation and padding, to the image that
    the pipeline delivers; in testing nothing is added. Where the noise must come before a resize or
    crop of the pipeline, use the transform ``mmcert.AddGaussianNoise`` instead.

    Args:
        sigma (float | Sequence[float]): Noise level in [0, 1] image units, or a range (low, high)
            from which each image draws its own uniformly.
        prob (float): Share of the images that get noise; the others stay clean.
        **kwargs: Passed to ``mmseg.models.SegDataPreProcessor``.

    Raises:
        ValueError: If ``sigma`` or ``prob`` is out of range.
    """

    def __init__(self, sigma: float | Sequence[float], prob: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = validate_sigma_range(sigma)
        self.prob = validate_prob(prob)

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Adds the noise if ``training``, then does what the base class does."""
        if training:
            data = self.cast_data(data)
            data = {**data, 'inputs': [self._perturb(image) for image in data['inputs']]}
        return super().forward(data, training)

    def _perturb(self, image: torch.Tensor) -> torch.Tensor:
        image = image.float()
        keep, level = torch.rand(2).tolist()
        if keep >= self.prob:
            return image
        sigma = self.low + (self.high - self.low) * level
        return torch.randn_like(image).mul_(255.0 * sigma).add_(image)
