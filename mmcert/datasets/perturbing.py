"""What the pipeline transforms that perturb an input have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmcert.registry import PERTURBATIONS


class Perturb(BaseTransform):
    """Perturbs a share of the inputs, each by a seed of its own.

    Args:
        perturbation (Mapping): Config of a perturbation, as for ``smoothing``.
        prob (float): Share of the inputs that are perturbed; the others stay as they are.

    Attributes:
        domain (str): The ``Perturbation.domain`` that goes with the transform.

    Raises:
        ValueError: If the perturbation is of another domain, or ``prob`` is out of range.
    """

    domain: ClassVar[str]

    def __init__(self, perturbation: Mapping[str, Any], prob: float = 1.0) -> None:
        self.perturbation = PERTURBATIONS.build({**perturbation, '_scope_': 'mmcert'})
        if self.perturbation.domain != self.domain:
            raise ValueError(
                f'{type(self).__name__} needs a perturbation of the domain {self.domain!r}, got '
                f'{perturbation}'
            )
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must lie in [0, 1], got {prob}')
        self.prob = prob

    @cache_randomness
    def _draw_seed(self) -> int | None:
        # mmengine seeds the legacy NumPy generator of each worker.
        if np.random.random() >= self.prob:
            return None
        return int(np.random.randint(2**31))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(perturbation={self.perturbation}, prob={self.prob})'
