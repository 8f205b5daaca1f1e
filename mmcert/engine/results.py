"""Writes what a run certifies: a label map, an array file and a JSON file for each input."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from mmcert.certifier import written_maps
from mmcert.fields import certified_maps, confidence_of
from mmcert.files import atomic_writer, remove_leftovers, write_json
from mmcert.report.confidence import write_confidence
from mmcert.visualization import CertifiedVisualizer


class ResultsWriter:
    """Writes certificates and confidence, and draws every so-many-th of them.

    The folder ``certificates`` gets ``NAME.png`` (the labels of an image), ``NAME.npz`` (maps, if
    there are any) and ``NAME.json``. The folder ``confidence`` gets ``NAME.npz`` and ``NAME.png``,
    see ``written``. The folder ``pictures`` gets the first input, drawn by ``visualizer``, and
    every ``draw_every``-th after it; 0 draws none.

    Args:
        certificates (Path): Folder of the certificates.
        confidence (Path): Folder of the maps of confidence.
        pictures (Path): Folder of the pictures.
        visualizer (CertifiedVisualizer): Draws.
        draw_every (int): Which inputs are drawn.
        written (str | None): What goes to the folder ``confidence``: 'pictures' (and arrays; of
            clouds only of those that are drawn), 'arrays' or None.
        log (Callable | None): Gets a name and an RGB picture of each input that is drawn.
    """

    def __init__(
        self,
        certificates: Path,
        confidence: Path,
        pictures: Path,
        visualizer: CertifiedVisualizer,
        draw_every: int,
        written: str | None,
        log: Callable[[str, NDArray[np.uint8]], None] | None = None,
    ) -> None:
        self.certificates, self.confidence, self.pictures = certificates, confidence, pictures
        self.visualizer, self.draw_every, self.written = visualizer, draw_every, written
        self.log = log or (lambda name, picture: None)
        self.inputs = 0
        remove_leftovers(certificates)
        remove_leftovers(confidence)

    def write(self, sample: BaseDataElement, raw: torch.Tensor) -> None:
        """Writes what the smoothed model returned for an input from the data loader."""
        name, document = sample.metainfo['name'], sample.metainfo['certificate']
        maps = certified_maps(sample.to_dict())
        write_certificate(self.certificates, name, document, maps)
        drawn = self.draw_every and self.inputs % self.draw_every == 0
        self.inputs += 1
        data, is_image = raw.cpu().numpy(), maps['cert'].ndim == 2
        if self.written is not None:
            picture = None
            # The points of a cloud are drawn one by one, which takes long for large scenes.
            if self.written == 'pictures' and (is_image or drawn):
                picture = self.visualizer.compose_confidence(data, sample)
            write_confidence(self.confidence, name, confidence_of(maps), picture)
        if drawn:
            if is_image:
                data = mmcv.imread(sample.get('img_path'), channel_order='rgb')
            picture = self.visualizer.compose(data, sample)
            mmcv.imwrite(mmcv.rgb2bgr(picture), str(self.pictures / f'{name}.png'))
            # MLflow tells the format by the ending.
            self.log(f'certified-{name}.png', picture)
            self.log(f'confidence-{name}.png', self.visualizer.compose_confidence(data, sample))


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
