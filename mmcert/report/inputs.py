"""Finds the image that a certificate is of: by its name, and by what it holds."""

import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.files import write_json
from mmcert.report.results_folder import StoredResult

ENDINGS = {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp'}

DATA = 'data.json'
"""Where results say which folder their images are in, if no config does."""


def write_data_folder(results: str | os.PathLike[str], images: str | os.PathLike[str]) -> None:
    """Says in a folder of results where the images of the run are.

    Certificates and votes do not depend on it. A path from the current folder is kept as one from
    the results, so that both can be moved together.
    """
    where, results = Path(images), Path(results)
    if not where.is_absolute():
        where = Path(os.path.relpath(where.resolve(), results.resolve()))
    write_json(results / DATA, {'images': where.as_posix()})


def data_folder(results: str | os.PathLike[str]) -> Path | None:
    """Where the images of a run should be, from the current folder; None if it did not say so."""
    file = Path(results) / DATA
    if not file.is_file():
        return None
    try:
        where = Path(json.loads(file.read_text())['images'])
    except (ValueError, TypeError, KeyError):
        # Somebody has changed it.
        return None
    return where if where.is_absolute() else Path(os.path.relpath(file.parent.resolve() / where))


def content_digest(image: NDArray[Any]) -> str:
    """The digest of an image (H, W, 3) in certificates, that of its tensor (3, H, W).

    The same as ``mmcert.sampling.draws.input_digest``, without torch.
    """
    array = np.ascontiguousarray(image.transpose(2, 0, 1))
    digest = hashlib.blake2b(f'{array.dtype}{array.shape}'.encode(), digest_size=16)
    digest.update(array.tobytes())
    return digest.hexdigest()


class ImageFinder:
    """Finds images in a folder and all folders in it.

    Args:
        folder (str | os.PathLike): Where the data set is.

    Attributes:
        folder (Path): The same.

    Raises:
        FileNotFoundError: If there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f'there is no folder {folder}')
        self.folder = Path(folder)
        self._files: dict[str, list[Path]] = defaultdict(list)
        seen: set[str] = set()
        for root, folders, names in os.walk(folder, followlinks=True):
            # Links may lead back.
            folders[:] = [] if os.path.realpath(root) in seen else sorted(folders)
            seen.add(os.path.realpath(root))
            for path in (Path(root, name) for name in sorted(names)):
                if path.suffix.lower() in ENDINGS:
                    self._files[path.stem].append(path)

    def __call__(self, result: StoredResult) -> NDArray[np.uint8] | None:
        """The image of a result, RGB; None if it is not there.

        Only an image of the certified content is taken: label maps and other images may have the
        same name.
        """
        stem, _, _ = result.name.rpartition('-')
        for path in self._files.get(stem, []):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None and content_digest(image) == result.certificate['input']['digest']:
                return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)
        return None
