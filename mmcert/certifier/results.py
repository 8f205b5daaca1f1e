"""Writes what a run certifies: a label map, an array file and a JSON file for each input."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.certifier.document import written_maps
from mmcert.certifier.plan import CertificationPlan
from mmcert.files import atomic_writer, remove_leftovers, write_json
from mmcert.report.confidence import write_confidence
from mmcert.votes.store import fingerprint

Picture = Callable[[], NDArray[np.uint8]]
"""Draws an RGB picture."""


class ResultsWriter:
    """Writes certificates and confidence, and draws every so-many-th of them.

    The folder ``certificates`` gets ``NAME.png`` (the labels of an image), ``NAME.npz`` (maps, if
    there are any) and ``NAME.json``. The folder ``confidence`` gets ``NAME.npz`` and ``NAME.png``,
    see ``written``. The folder ``pictures`` gets a picture of the first input and of every
    ``draw_every``-th after it; 0 draws none.

    Args:
        certificates (Path): Folder of the certificates.
        confidence (Path): Folder of the maps of confidence.
        pictures (Path): Folder of the pictures.
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
        draw_every: int,
        written: str | None,
        log: Callable[[str, NDArray[np.uint8]], None] | None = None,
    ) -> None:
        self.certificates, self.confidence, self.pictures = certificates, confidence, pictures
        self.draw_every, self.written = draw_every, written
        self.log = log or (lambda name, picture: None)
        self._inputs = 0
        remove_leftovers(certificates)
        remove_leftovers(confidence)

    def write(
        self,
        name: str,
        document: Mapping[str, Any],
        maps: Mapping[str, NDArray[Any]],
        confidence: Mapping[str, NDArray[Any]],
        draw: Picture,
        draw_confidence: Picture,
        number: int | None = None,
    ) -> None:
        """Writes what was certified of an input.

        Args:
            name (str): Its name, that of its votes.
            document (Mapping): Its certificate, see ``mmcert.certifier.document``.
            maps (Mapping): Its maps, as in ``CertifiedInput.maps``.
            confidence (Mapping): Its maps of confidence, as in ``CertifiedInput.confidence``.
            draw (Callable): Draws the certificate.
            draw_confidence (Callable): Draws the confidence.
            number (int | None): Its number in the run, which decides whether it is drawn; by
                default that of the call.
        """
        write_certificate(self.certificates, name, document, maps)
        number = self._inputs if number is None else number
        drawn = self.draw_every and number % self.draw_every == 0
        self._inputs += 1
        if self.written is not None:
            # The points of a cloud are drawn one by one, which takes long for large scenes.
            wanted = self.written == 'pictures' and (maps['cert'].ndim == 2 or drawn)
            write_confidence(
                self.confidence, name, confidence, draw_confidence() if wanted else None
            )
        if drawn:
            picture = draw()
            write_picture(self.pictures / f'{name}.png', picture)
            # MLflow tells the format by the ending.
            self.log(f'certified-{name}.png', picture)
            self.log(f'confidence-{name}.png', draw_confidence())


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


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes an RGB picture as PNG; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(picture[..., ::-1])
    with atomic_writer(path) as stream:
        stream.write(cv2.imencode('.png', pixels)[1].tobytes())


def results_name(plan: CertificationPlan, sampling: Mapping[str, Any]) -> str:
    """What tells the certificates of a plan from others of the same votes, for names of folders.

    One set of votes answers several attack sets, each in a folder of its own.
    """
    return fingerprint({**sampling, **asked_attack(plan), 'settings': plan.settings_to_dict()})


def asked_attack(plan: CertificationPlan) -> dict[str, Any]:
    """The attack set that a plan was asked about, as an entry, where there is one."""
    extra = plan.guarantee().extra
    return {key: value for key, value in extra.items() if key == 'attack'}
