"""Writes what a run certifies: a label map, an array file and a JSON file for each input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from mmcert.certifier import written_maps
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
        name, document = sample.metainfo['name'], sample.metainfo['certificate']
        maps = certified_maps(sample.to_dict())
        write_certificate(self.certificates, name, document, maps)
        if self.draw_every and self.written % self.draw_every == 0:
            data = raw.cpu().numpy()
            if maps['cert'].ndim == 2:
                data = mmcv.imread(sample.get('img_path'), channel_order='rgb')
            picture = mmcv.rgb2bgr(self.visualizer.compose(data, sample))
            mmcv.imwrite(picture, str(self.pictures / f'{name}.png'))
        self.written += 1


def write_certificate(
    folder: Path, name: str, document: Mapping[str, Any], maps: Mapping[str, NDArray[Any]]
) -> None:
    """Writes a certificate and the maps that it covers, as ``tools/verify.py`` reads them.

    Args:
        folder (Path): Where the files go; made if missing.
        name (str): Their name, without an ending; that of the votes.
        document (Mapping): The certificate, see ``mmcert.certifier.document``.
        maps (Mapping): The maps of the input, as in ``CertifiedInput.maps``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = written_maps(maps)
    if arrays['labels'].ndim == 2:
        with atomic_writer(folder / f'{name}.png') as stream:
            stream.write(cv2.imencode('.png', arrays.pop('labels'))[1].tobytes())
    if arrays:
        with atomic_writer(folder / f'{name}.npz') as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_json(folder / f'{name}.json', document)
