"""Writes what a run certifies: a label map, an array file and a JSON file for each input."""

from __future__ import annotations

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


class CertificateWriter:
    """Writes certificates: ``NAME.png`` (labels of an image), ``NAME.npz`` (maps), ``NAME.json``.

    Args:
        folder (Path): Where they go; made with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        remove_leftovers(folder)

    def write(self, sample: BaseDataElement) -> None:
        """Writes the certificate of one input.

        Args:
            sample (BaseDataElement): What the smoothed model returned.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = sample.metainfo['name']
        found = certified_maps(sample.to_dict())
        labels = found['cert'].astype(np.uint8)
        maps: dict[str, Any] = {'radius': found['radius']}
        if labels.ndim == 2:
            with atomic_writer(self.folder / f'{name}.png') as file:
                file.write(cv2.imencode('.png', labels)[1].tobytes())
        else:
            maps['labels'] = labels
        if 'levels' in found:
            maps['level'], *groups = found['levels'].astype(np.uint8)
            maps |= {f'groups{level}': found for level, found in enumerate(groups, 1)}
        with atomic_writer(self.folder / f'{name}.npz') as file:
            np.savez_compressed(file, **maps)
        write_json(self.folder / f'{name}.json', sample.metainfo['certificate'])


class PictureWriter:
    """Draws every so-many-th input.

    Args:
        folder (Path): Where the pictures go.
        visualizer (CertifiedVisualizer): What draws them.
        every (int): Draws the first input and every so-many-th after it; 0 draws none.
    """

    def __init__(self, folder: Path, visualizer: CertifiedVisualizer, every: int) -> None:
        self.folder, self.visualizer, self.every = folder, visualizer, every
        self.seen = 0

    def write(self, sample: BaseDataElement, raw: torch.Tensor) -> None:
        """Draws one input, if it is its turn.

        Args:
            sample (BaseDataElement): What the smoothed model returned.
            raw (torch.Tensor): The input from the data loader.
        """
        drawn = bool(self.every) and self.seen % self.every == 0
        self.seen += 1
        if not drawn:
            return
        if 'cert_pts_seg' in sample:
            data = raw.cpu().numpy()
        else:
            data = mmcv.imread(sample.get('img_path'), channel_order='rgb')
        picture = self.visualizer.compose(data, sample)
        file = self.folder / f'{sample.metainfo["name"]}.png'
        mmcv.imwrite(mmcv.rgb2bgr(picture), str(file))
