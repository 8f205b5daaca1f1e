"""Writes what a run of OpenMMLab certifies."""

from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from mmcert.certifier.results import ResultsWriter
from mmcert.fields import certified_maps, confidence_of
from mmcert.visualization import CertifiedVisualizer


def write_sample(
    writer: ResultsWriter,
    visualizer: CertifiedVisualizer,
    sample: BaseDataElement,
    raw: torch.Tensor,
) -> None:
    """Writes what the smoothed model returned for an input from the data loader."""
    maps = certified_maps(sample.to_dict())
    is_image = maps['cert'].ndim == 2

    def draw() -> NDArray[np.uint8]:
        data: NDArray[Any] = raw.cpu().numpy()
        if is_image:
            data = mmcv.imread(sample.get('img_path'), channel_order='rgb')
        return visualizer.compose(data, sample)

    writer.write(
        sample.metainfo['name'],
        sample.metainfo['certificate'],
        maps,
        confidence_of(maps),
        draw,
        lambda: visualizer.compose_confidence(raw.cpu().numpy(), sample),
    )
