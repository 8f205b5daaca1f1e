"""Pipeline transforms that train a model on points to withstand a perturbation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmcert.datasets.perturbing import Perturb
from mmcert.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PerturbPoints(Perturb):
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

    domain = 'points'

    def transform(self, results: dict) -> dict:
        """Perturbs ``results['points']``; its tensor is replaced, not changed in place."""
        seed = self._draw_seed()
        if seed is None:
            return results
        points = results['points']
        columns = self.perturbation.num_columns
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
