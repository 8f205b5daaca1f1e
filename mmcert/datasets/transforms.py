"""Pipeline transforms that train a model on noisy, transformed and perturbed inputs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from numpy.typing import NDArray

from mmcert.perturbations.noise_level import validate_prob, validate_sigma_range
from mmcert.registry import PERTURBATIONS, TRANSFORMS
from mmcert.transformations import build


class RandomTransform(BaseTransform):
    """Changes a share of the inputs, each in its own random way.

    Args:
        prob (float): Share of the inputs that are changed; the others stay as they are.

    Raises:
        ValueError: If ``prob`` is out of range.
    """

    def __init__(self, prob: float = 1.0) -> None:
        self.prob = validate_prob(prob)

    @cache_randomness
    def _draw(self) -> Any:
        """What the next input is changed by; None leaves it alone."""
        # mmengine seeds the legacy NumPy generator of each worker.
        return None if np.random.random() >= self.prob else self._draw_parameters()

    def _draw_parameters(self) -> Any:
        """By default the seed of a generator."""
        return int(np.random.randint(2**31))

    def transform(self, results: dict) -> dict:
        """Changes the input, if it is one of the share."""
        drawn = self._draw()
        if drawn is not None:
            self._change(results, drawn)
        return results

    @abstractmethod
    def _change(self, results: dict, drawn: Any) -> None:
        """Changes the results by what was drawn."""


@TRANSFORMS.register_module()
class AddGaussianNoise(RandomTransform):
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
        super().__init__(prob)
        self.low, self.high = validate_sigma_range(sigma)

    def _draw_parameters(self) -> tuple[float, int]:
        return float(np.random.uniform(self.low, self.high)), super()._draw_parameters()

    def _change(self, results: dict, drawn: tuple[float, int]) -> None:
        sigma, seed = drawn
        image = results['img']
        # A Generator draws float32 normals several times faster than the legacy generator.
        rng = np.random.Generator(np.random.SFC64(seed))
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        results['img'] = image.astype(np.float32) + np.float32(255.0 * sigma) * noise

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sigma=({self.low}, {self.high}), prob={self.prob})'


@TRANSFORMS.register_module()
class SemanticTransform(RandomTransform):
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
        super().__init__(prob)
        self.transformation = build(transformation)
        if (range is None) == (values is None):
            raise ValueError(f'needs either range or values, got {range} and {values}')
        self.values = None if values is None else self.transformation.finite(values).numpy()
        self.range = None if range is None else self.transformation.ends(range).T.tolist()

    def _draw_parameters(self) -> NDArray[np.float64]:
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

    def _change(self, results: dict, drawn: NDArray[np.float64]) -> None:
        image = scaled(results['img'])[None]
        results['img'] = unscaled(self.transformation(image, drawn)[0])
        if self.transformation.moves_labels:
            for key in {'gt_seg_map', *results.get('seg_fields', ())} & results.keys():
                labels = torch.from_numpy(np.ascontiguousarray(results[key]))[None]
                results[key] = self.transformation.labels(labels, drawn)[0].numpy()

    def __repr__(self) -> str:
        drawn = f'range={self.range}' if self.values is None else f'values={self.values.tolist()}'
        return (
            f'{type(self).__name__}(transformation={self.transformation}, {drawn}, '
            f'prob={self.prob})'
        )


class _Perturb(RandomTransform):
    """Perturbs inputs of one domain as randomized smoothing will at test time."""

    domain: ClassVar[str]

    def __init__(self, perturbation: Mapping[str, Any], prob: float = 1.0) -> None:
        super().__init__(prob)
        self.perturbation = PERTURBATIONS.build({**perturbation, '_scope_': 'mmcert'})
        if self.perturbation.domain != self.domain:
            raise ValueError(
                f'{type(self).__name__} needs a perturbation of the domain {self.domain!r}, got '
                f'{perturbation}'
            )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(perturbation={self.perturbation}, prob={self.prob})'


@TRANSFORMS.register_module()
class PerturbImage(_Perturb):
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

    def _change(self, results: dict, drawn: int) -> None:
        generator = torch.Generator().manual_seed(drawn)
        results['img'] = unscaled(self.perturbation.sample(scaled(results['img']), generator))


@TRANSFORMS.register_module()
class PerturbPoints(_Perturb):
    """Perturbs the points of a cloud as randomized smoothing will at test time.

    Place it where the certificate's perturbation acts: on the points as the test pipeline delivers
    them. Columns other than the coordinates (and the normals, if the perturbation takes them)
    stay as they are. The points' tensor is replaced, not changed in place.

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

    def _change(self, results: dict, drawn: int) -> None:
        points = results['points']
        columns = self.perturbation.num_columns
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
        tensor = points.tensor.clone()
        generator = torch.Generator(tensor.device).manual_seed(drawn)
        tensor[:, :columns] = self.perturbation.sample(points.tensor[:, :columns], generator)
        points.tensor = tensor


def scaled(image: NDArray[Any]) -> torch.Tensor:
    """An image (H, W, C) in 0-255 as float32 (C, H, W) in [0, 1] units."""
    if image.ndim != 3:
        raise ValueError(f'img must have shape (H, W, C), got {image.shape}')
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes / np.float32(255))


def unscaled(image: torch.Tensor) -> NDArray[np.float32]:
    """The other way."""
    return np.ascontiguousarray((image * 255).permute(1, 2, 0).numpy())
