"""Finds the image that a certificate is of: by its name, and by what it holds."""

import hashlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.report.results_folder import StoredResult

ENDINGS = {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp'}


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

    Raises:
        FileNotFoundError: If there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f'there is no folder {folder}')
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
