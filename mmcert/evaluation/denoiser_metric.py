"""How well a denoiser restores images, and the predictions of a segmentor on them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmcert.registry import METRICS

FIGURES = ('noisy_psnr', 'psnr', 'noisy_agreement', 'agreement')


@METRICS.register_module()
class DenoiserMetric(BaseMetric):
    """Means over held-out images of what ``mmcert.DenoiserModel`` says of each.

    ``psnr`` is the peak signal-to-noise ratio of the denoised image in dB, ``agreement`` the share
    of pixels to which the frozen segmentor gives the class of the clean image, and ``noisy_psnr``
    and ``noisy_agreement`` are the same without the denoiser. Without a segmentor there are no
    agreements.
    """

    default_prefix = 'denoiser'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collects a batch."""
        self.results += [
            {name: sample[name] for name in FIGURES if name in sample} for sample in data_samples
        ]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """The figures over all images."""
        return {name: float(np.mean([one[name] for one in results])) for name in results[0]}
