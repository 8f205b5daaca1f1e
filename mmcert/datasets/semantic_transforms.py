"""Pipeline transforms that train a model on transformed, and on smoothed, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from numpy.typing import NDArray

from mmcert.datasets.perturbing import Perturb
from mmcert.registry import TRANSFORMS
from mmcert.transformations import build


@TRANSFORMS.register_module()
class SemanticTransform(BaseTransform):
    """Transforms the image, and its labels where they move, with a random parameter.

    Place it where the certificate's transformation acts: on the image as loaded, before noise and
    normalisation (and before any resizing that the smoothed function does). The result is float32
    and not clipped.

    Required and modified key: ``img`` (uint8 or float array (H, W, C) in 0-255). Where labels move,
    ``gt_seg_map`` and what ``seg_fields`` names are modified as well; what comes from outside the
    frame becomes 255, the ignore index.

    Args:
        transformation (Mapping | str): Config or name of a transformation, as in
            ``mmcert.transformations``.
        range (Sequence | None): (low, high) from which each image draws its own parameter
            uniformly (whole numbers where the parameter is one); a pair for each parameter if there
            are several.
        values (Sequence | None): Instead of a range, the parameters among which each image chooses
            uniformly.
        prob (float): Share of the images that are transformed; the others stay as they are.

    Raises:
        ValueError: If the transformation is not known, not exactly one of ``range`` and ``values``
            is given, or a parameter or ``prob`` is out of range.
    """

    def __init__(
        self,
        transformation: Mapping[str, Any] | str,
        range: Sequence[Any] | None = None,
        values: Sequence[Any] | None = None,
        prob: float = 1.0,
    ) -> None:
        self.transformation = build(transformation)
        if (range is None) == (values is None):
            raise ValueError(f'needs either range or values, got {range} and {values}')
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must lie in [0, 1], got {prob}')
        self.prob = prob
        self.values = None if values is None else self.transformation.finite(values).numpy()
        self.range = None if range is None else self.transformation.ends(range).T.tolist()

    @cache_randomness
    def _draw_parameters(self) -> np.ndarray | None:
        # mmengine seeds the legacy NumPy generator of each worker.
        if np.random.random() >= self.prob:
            return None
        if self.values is not None:
            return self.values[np.random.randint(len(self.values))]
        assert self.range is not None
        drawn = [
            np.random.randint(int(low), int(high) + 1)
            if parameter.integer
            else np.random.uniform(low, high)
            for parameter, (low, high) in zip(
                self.transformation.parameters, self.range, strict=True
            )
        ]
        return np.array(drawn, dtype=np.float64)

    def transform(self, results: dict) -> dict:
        """Transforms ``results['img']``, and the label maps where they move with the content."""
        parameters = self._draw_parameters()
        if parameters is None:
            return results
        image = torch.from_numpy(scaled(results['img']))[None]
        moved = self.transformation(image, parameters)[0] * 255
        results['img'] = np.ascontiguousarray(moved.permute(1, 2, 0).numpy())
        if self.transformation.moves_labels:
            for key in {'gt_seg_map', *results.get('seg_fields', ())} & results.keys():
                labels = torch.from_numpy(np.ascontiguousarray(results[key]))[None]
                results[key] = self.transformation.labels(labels, parameters)[0].numpy()
        return results

    def __repr__(self) -> str:
        drawn = f'range={self.range}' if self.values is None else f'values={self.values.tolist()}'
        return (
            f'{type(self).__name__}(transformation={self.transformation}, {drawn}, '
            f'prob={self.prob})'
        )


@TRANSFORMS.register_module()
class PerturbImage(Perturb):
    """Perturbs the image as randomized smoothing will at test time.

    Place it where the certificate's perturbation acts: on the image as the test pipeline delivers
    it. With ``mmcert.SurrogateTransform`` the image becomes what the surrogate makes of it, under
    both of its noises. The result is float32 and not clipped.

    Required and modified key: ``img`` (uint8 or float array (H, W, C) in 0-255).

    Args:
        perturbation (Mapping): Config of a perturbation of images, as for ``smoothing``.
        prob (float): Share of the images that are perturbed; the others stay as they are.

    Raises:
        ValueError: If the perturbation is not one of images, it moves the labels, or ``prob`` is
            out of range.
    """

    domain = 'image'

    def __init__(self, perturbation: Mapping[str, Any], prob: float = 1.0) -> None:
        super().__init__(perturbation, prob)
        if self.perturbation.moves_labels:
            raise ValueError(
                f'{self.perturbation} moves the labels: train with mmcert.SemanticTransform, which '
                'moves them along'
            )

    def transform(self, results: dict) -> dict:
        """Perturbs ``results['img']``."""
        seed = self._draw_seed()
        if seed is None:
            return results
        image = torch.from_numpy(scaled(results['img']))
        noisy = self.perturbation.sample(image, torch.Generator().manual_seed(seed)) * 255
        results['img'] = np.ascontiguousarray(noisy.permute(1, 2, 0).numpy())
        return results


def scaled(image: NDArray[Any]) -> NDArray[np.float32]:
    """An image (H, W, C) in 0-255 as float32 (C, H, W) in [0, 1] units."""
    if image.ndim != 3:
        raise ValueError(f'img must have shape (H, W, C), got {image.shape}')
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
