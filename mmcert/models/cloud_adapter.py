"""Point clouds: mmdetection3d's models and samples."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample, PointData
from mmengine.model import BaseModel
from numpy.typing import NDArray

from mmcert.fields import CLOUD_FIELDS
from mmcert.models.adapter import Adapter, Maps
from mmcert.models.point_segmentor import PointSegmentor, points_needed
from mmcert.models.precision import PrecisionSettings

CERTIFIED_SPACE = (
    'the coordinates of the cloud as the test pipeline delivers it to the model, after its '
    'sampling, centring and scaling: the radius does not transfer to what the pipeline was given'
)

NORMALS = (3, 4, 5)
"""Columns of the normals, where a perturbation takes them along."""


@dataclass(frozen=True)
class CloudAdapter(Adapter[Det3DDataSample]):
    """Clouds (N, D) and the labels of their points (N,).

    Refuses clouds that are empty, too narrow, not finite, other than their labels, or of fewer
    points than the model samples.

    Attributes:
        noise_dims (tuple[int, ...]): Columns that are perturbed.
        runs (int): Passes that are averaged, see ``PointSegmentor``.
        normals (bool): Whether the perturbation takes the normals in columns 3 to 5 along.
    """

    word: ClassVar[str] = 'cloud'
    component: ClassVar[str] = 'point'
    domain: ClassVar[str] = 'points'

    noise_dims: tuple[int, ...] = (0, 1, 2)
    runs: int = 1
    normals: bool = False

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns that draws are made of."""
        return (*self.noise_dims, *(NORMALS if self.normals else ()))

    def spec(self) -> dict[str, Any]:
        return {'columns': list(self.columns), 'runs': self.runs}

    def inputs(self, data: dict[str, Any]) -> list[tuple[torch.Tensor, Det3DDataSample]]:
        return list(zip(data['inputs']['points'], data['data_samples'], strict=True))

    def check(self, raw: torch.Tensor, sample: Det3DDataSample) -> None:
        name = self.source(sample) or 'a cloud'
        if raw.dim() != 2 or len(raw) == 0:
            raise ValueError(f'{name}: a cloud must have shape (N, D), got {tuple(raw.shape)}')
        if max(self.columns) >= raw.shape[1]:
            what = 'the normals' if max(self.noise_dims) < raw.shape[1] else 'noise_dims'
            raise ValueError(
                f'{name}: {what} ask for column {max(self.columns)}, but the pipeline delivers '
                f'points of {raw.shape[1]} columns (use_dim of the loading transform)'
            )
        bad = int((~raw.isfinite()).any(dim=1).sum())
        if bad:
            raise ValueError(
                f'{name}: {bad} of {len(raw)} points have a NaN or infinite value; remove these '
                'points from the file or in the test pipeline'
            )
        label = self.label(sample)
        if label is not None and label.shape != (len(raw),):
            raise ValueError(
                f'{name}: {len(raw)} points, but labels of shape {label.shape}: the test pipeline '
                'must select points and labels alike'
            )

    def clean_input(self, raw: torch.Tensor) -> torch.Tensor:
        return raw[:, list(self.columns)].float()

    def segmentor(
        self,
        base: BaseModel,
        raw: torch.Tensor,
        sample: Det3DDataSample,
        precision: PrecisionSettings,
    ) -> PointSegmentor:
        needed = self.points_needed(base)
        if len(raw) < needed:
            raise ValueError(
                f'{self.source(sample) or "a cloud"} has {len(raw)} points, but '
                f'{type(base.backbone).__name__} samples {needed}: deliver at least so many'
            )
        return PointSegmentor(base, raw, sample, self.columns, self.runs, precision)

    def differ_in_input_alone(self, raw: torch.Tensor, other: torch.Tensor) -> bool:
        others = [column for column in range(raw.shape[1]) if column not in self.columns]
        return raw.shape == other.shape and torch.equal(raw[:, others], other[:, others])

    def points_needed(self, base: BaseModel) -> int:
        whole = base.test_cfg.get('mode') == 'whole'
        return max(points_needed(base.backbone), 1) if whole else 1

    def source(self, sample: Det3DDataSample) -> str:
        meta = sample.metainfo
        return str(meta.get('lidar_path') or meta.get('pts_filename') or '')

    def label(self, sample: Det3DDataSample) -> NDArray[np.integer] | None:
        if 'gt_pts_seg' in sample and 'pts_semantic_mask' in sample.gt_pts_seg:
            return np.asarray(torch.as_tensor(sample.gt_pts_seg.pts_semantic_mask).cpu())
        info = getattr(sample, 'eval_ann_info', None) or {}
        label = info.get('pts_semantic_mask')
        return None if label is None else np.asarray(label)

    def shape(self, raw: torch.Tensor, sample: Det3DDataSample) -> tuple[int, ...]:
        return (len(raw),)

    def attach(self, sample: Det3DDataSample, maps: Maps) -> None:
        for name, array in maps.items():
            if name == 'guess':
                continue  # It is the prediction.
            field, key = CLOUD_FIELDS[name]
            # PointData wants the points in the first axis.
            data = torch.from_numpy(array)
            sample.set_data({field: PointData(**{key: data.t() if data.dim() == 2 else data})})

    def to_dict(self) -> dict[str, Any]:
        columns = ', '.join(map(str, self.columns))
        return {
            'space': 'model',
            'certified_space': CERTIFIED_SPACE,
            'components_are': 'the points of the cloud',
            'perturbed': (
                f'applied to columns {columns} of the cloud as the test pipeline delivers it, '
                'before voxelisation and everything else inside the model; all other columns '
                'stay as they are'
            ),
            'columns': list(self.columns),
            'runs': self.runs,
        }
