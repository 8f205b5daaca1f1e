"""Images: mmsegmentation's models and samples."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from numpy.typing import NDArray

from mmcert.certifier.images import RESOLUTIONS, SPACES, to_unit_range
from mmcert.denoisers import Denoising
from mmcert.fields import IMAGE_FIELDS
from mmcert.models.adapter import Adapter, Maps
from mmcert.models.image_segmentor import ImageSegmentor, Resolution
from mmcert.models.precision import PrecisionSettings

Space = Literal['original', 'model']


@dataclass(frozen=True)
class ImageAdapter(Adapter[SegDataSample]):
    """Images (C, H, W), 0-255, and their label maps (H, W).

    Label maps become ``PixelData`` of shape (1, H, W), ``cert_levels`` (1 + L, H, W).

    Attributes:
        scales (tuple[float, ...]): Input scales inside the smoothed function.
        flip (bool): Whether the smoothed function averages with the mirrored image.
        space (str): 'original' or 'model', see ``SPACES``; an image that the pipeline resized is
            refused with 'original'.
        resolution (str): 'image' or 'logits', see ``RESOLUTIONS``.
        denoising (Denoising | None): The first step of the smoothed function.
    """

    word: ClassVar[str] = 'image'
    component: ClassVar[str] = 'pixel'
    domain: ClassVar[str] = 'image'

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    space: Space = 'original'
    resolution: Resolution = 'image'
    denoising: Denoising | None = None

    @property
    def certifies_grid_points(self) -> bool:
        return self.resolution == 'logits'

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {'scales': list(self.scales), 'flip': self.flip, 'space': self.space}
        # Votes of earlier versions are found without it.
        if self.resolution != 'image':
            spec['resolution'] = self.resolution
        if self.denoising is not None:
            spec['denoiser'] = self.denoising.spec()
        return spec

    def inputs(self, data: dict[str, Any]) -> list[tuple[torch.Tensor, SegDataSample]]:
        return list(zip(data['inputs'], data['data_samples'], strict=True))

    def check(self, raw: torch.Tensor, sample: SegDataSample) -> None:
        meta = sample.metainfo
        size, original = tuple(raw.shape[-2:]), tuple(meta['ori_shape'][:2])
        if self.space == 'original' and (size != original or meta.get('flip')):
            raise ValueError(
                f'the test pipeline changed the image ({original} originally, {size} at the model, '
                f'flip={meta.get("flip", False)}) before the noise could be added, so a radius '
                'would not hold for the original image. Either remove the resizing from the test '
                'pipeline and move it into the smoothed function (`smoothing.scales`), or set '
                "`smoothing.space='model'` to certify the resized image, which the result then says"
            )

    def clean_input(self, raw: torch.Tensor) -> torch.Tensor:
        return to_unit_range(raw)

    def segmentor(
        self,
        base: BaseModel,
        raw: torch.Tensor,
        sample: SegDataSample,
        precision: PrecisionSettings,
    ) -> ImageSegmentor:
        return ImageSegmentor(
            base, sample, self.scales, self.flip, precision, self.resolution, self.denoising
        )

    def source(self, sample: SegDataSample) -> str:
        return sample.metainfo.get('img_path') or ''

    def label(self, sample: SegDataSample) -> NDArray[np.integer] | None:
        return sample.gt_sem_seg.data[0].cpu().numpy() if 'gt_sem_seg' in sample else None

    def shape(self, raw: torch.Tensor, sample: SegDataSample) -> tuple[int, ...]:
        return tuple(sample.ori_shape[:2])

    def attach(self, sample: SegDataSample, maps: Maps) -> None:
        for name, array in maps.items():
            if name in ('label', 'guess'):
                continue  # The sample has the label, and the guess is its prediction.
            data = torch.from_numpy(array)
            data = data if name == 'levels' else data[None]
            field, key = IMAGE_FIELDS[name]
            sample.set_data({field: PixelData(**{key: data})})

    def describe(self) -> str:
        return '' if self.denoising is None else f', each through {self.denoising.describe()}'

    def to_dict(self) -> dict[str, Any]:
        return {
            'space': self.space,
            'certified_space': SPACES[self.space],
            'resolution': self.resolution,
            'components_are': RESOLUTIONS[self.resolution],
            'scales': list(self.scales),
            'flip': self.flip,
            **({} if self.denoising is None else {'denoiser': self.denoising.to_dict()}),
        }
