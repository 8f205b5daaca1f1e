"""Pipeline transforms that train a model on points to withstand a perturbation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmcert.registry import PERTURBATIONS, TRANSFORMS


@TRANSFORMS.register_module()
class PerturbPoints(BaseTransform):
    """Perturbs the points of a cloud as randomized smoothing will at test time.

    Place it where the certificate's perturbation acts: on the points as the test pipeline delivers
    them. Columns other than the coordinates (and the normals, if the perturbation takes them)
    stay as they are.

    Required and modified key: ``points``, mmdet3d's ``BasePoints`` or anything with a ``tensor`` of
    shape (N, D): coordinates in the first three columns, normals in the next three if the
    perturbation takes them.

    Args:
        perturbation (Mapping): Config of a perturbation of points, as for ``smoothing``.
        prob (float): Share of the clouds that are perturbed; the others stay clean.

    Raises:
        ValueError: If the perturbation is not one of points, or ``prob`` is out of range.
    """

    def __init__(self, perturbation: Mapping[str, Any], prob: float = 1.0) -> None:
        self.perturbation = PERTURBATIONS.build({**perturbation, '_scope_': 'mmcert'})
        if self.perturbation.domain != 'points':
            raise ValueError(f'PerturbPoints needs a perturbation of points, got {perturbation}')
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must lie in [0, 1], got {prob}')
        self.prob = prob

    @cache_randomness
    def _draw_seed(self) -> int | None:
        # mmengine seeds the legacy NumPy generator of each worker.
        if np.random.random() >= self.prob:
            return None
        return int(np.random.randint(2**31))

    def transform(self, results: dict) -> dict:
        """Perturbs ``results['points']``; its tensor is replaced, not changed in place."""
        seed = self._draw_seed()
        if seed is None:
            return results
        points = results['points']
        columns = 6 if self.perturbation.normals else 3
        self._check(points, columns)
        tensor = points.tensor.clone()
        generator = torch.Generator(tensor.device).manual_seed(seed)
        tensor[:, :columns] = self.perturbation.sample(points.tensor[:, :columns], generator)
        points.tensor = tensor
        return results

    def _check(self, points: Any, columns: int) -> None:
        if points.tensor.shape[1] < columns:
            raise ValueError(
                f'{self.perturbation} needs points of at least {columns} columns, got '
                f'{points.tensor.shape[1]}'
            )
        for name, dims in (getattr(points, 'attribute_dims', None) or {}).items():
            if name != 'normal' and min(np.ravel(dims)) < columns:
                raise ValueError(
                    f'{self.perturbation} needs the first {columns} columns, but {name!r} is in '
                    f'columns {dims}'
                )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(perturbation={self.perturbation}, prob={self.prob})'
