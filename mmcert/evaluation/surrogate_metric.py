"""How well a surrogate imitates its transformation, and how far attacks move its latent."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmcert.registry import METRICS


@METRICS.register_module()
class SurrogateMetric(BaseMetric):
    """Means over held-out images of what ``mmcert.SurrogateModel`` says of each.

    ``error`` and ``noisy_error`` are mean absolute differences from the real transformation in
    [0, 1] image units, without the noise of the latent and with it; ``displacement`` has the median
    and the 0.1 and 0.9 quantiles of the supremum over the attack set, in standard deviations.
    """

    default_prefix = 'surrogate'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collects a batch."""
        names = ('error', 'noisy_error', 'displacement')
        self.results += [[sample[name] for name in names] for sample in data_samples]

    def compute_metrics(self, results: list[list[float]]) -> dict[str, float]:
        """The figures over all images."""
        error, noisy, displacement = np.array(results).T
        low, median, high = np.quantile(displacement, [0.1, 0.5, 0.9])
        return {
            'error': float(error.mean()),
            'noisy_error': float(noisy.mean()),
            'displacement_median': float(median),
            'displacement_q10': float(low),
            'displacement_q90': float(high),
        }
