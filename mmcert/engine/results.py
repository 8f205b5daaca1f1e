"""Writes what a run certifies: a label map, an array file and a JSON file for each input."""

from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement

from mmcert.fields import certified_maps
from mmcert.files import atomic_writer, remove_leftovers, write_json
from mmcert.visualization import CertifiedVisualizer


class ResultsWriter:
    """Writes certificates, and draws every so-many-th of them.

    The folder ``certificates`` gets ``NAME.png`` (the labels of an image), ``NAME.npz`` (maps, if
    there are any) and ``NAME.json``. The folder ``pictures`` gets the first input, drawn by
    ``visualizer``, and every ``draw_every``-th after it; 0 draws none.
    """

    def __init__(
        self, certificates: Path, pictures: Path, visualizer: CertifiedVisualizer, draw_every: int
    ) -> None:
        self.certificates, self.pictures = certificates, pictures
        self.visualizer, self.draw_every = visualizer, draw_every
        self.written = 0
        remove_leftovers(certificates)

    def write(self, sample: BaseDataElement, raw: torch.Tensor) -> None:
        """Writes what the smoothed model returned for an input from the data loader."""
        self.certificates.mkdir(parents=True, exist_ok=True)
        file = self.certificates / sample.metainfo['name']
        found = certified_maps(sample.to_dict())
        labels = found['cert'].astype(np.uint8)
        maps: dict[str, Any] = {'radius': found['radius']} if 'radius' in found else {}
        if labels.ndim == 2:
            with atomic_writer(f'{file}.png') as stream:
                stream.write(cv2.imencode('.png', labels)[1].tobytes())
        else:
            maps['labels'] = labels
        if 'levels' in found:
            maps['level'], *groups = found['levels'].astype(np.uint8)
            maps |= {f'groups{level}': choice for level, choice in enumerate(groups, 1)}
        if maps:
            with atomic_writer(f'{file}.npz') as stream:
                np.savez_compressed(stream, **maps)
        write_json(f'{file}.json', sample.metainfo['certificate'])
        if self.draw_every and self.written % self.draw_every == 0:
            data = raw.cpu().numpy()
            if labels.ndim == 2:
                data = mmcv.imread(sample.get('img_path'), channel_order='rgb')
            picture = mmcv.rgb2bgr(self.visualizer.compose(data, sample))
            mmcv.imwrite(picture, str(self.pictures / f'{file.name}.png'))
        self.written += 1
