"""Brings CamVid from the SegNet tutorial's layout into the one that mmcert's configs read.

The tutorial's folder holds ``train``, ``val`` and ``test`` with images, ``trainannot`` and so on
with label images (0-10 the classes, 11 unlabelled), and ``train.txt`` and so on with a pair of
paths per line. The result holds ``images/SPLIT/NAME.jpg`` (quality 95) and
``annotations/SPLIT/NAME.png`` with 255 for unlabelled.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

SPLITS = ('train', 'val', 'test')
NUM_CLASSES = 11
VOID = 11


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', type=Path, help='the CamVid folder of the SegNet tutorial')
    parser.add_argument('--out', type=Path, default=Path('data/camvid'), help='folder to write')
    return parser.parse_args(argv)


def main() -> int:
    """Converts all splits, and says how many frames each has."""
    args = parse_args()
    try:
        for split in SPLITS:
            pairs = read_pairs(args.source, split)
            for image, labels in pairs:
                convert(image, labels, args.out, split)
            print(f'{split}: {len(pairs)} frames')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def read_pairs(source: Path, split: str) -> list[tuple[Path, Path]]:
    """Image and label files of a split; the paths in the list are relative to another machine."""
    lines = (source / f'{split}.txt').read_text().split('\n')
    names = [[Path(path).name for path in line.split()] for line in lines if line.strip()]
    return [(source / split / a, source / f'{split}annot' / b) for a, b in names]


def convert(image_path: Path, label_path: Path, out: Path, split: str) -> None:
    """Writes one frame."""
    image = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
    labels = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
    for path, read in ((image_path, image), (label_path, labels)):
        if read is None:
            raise OSError(f'cannot read the image {path}')
    if labels.ndim != 2 or labels.shape != image.shape[:2]:
        raise ValueError(f'{label_path}: labels of shape {labels.shape} for image {image.shape}')
    if labels.max() > VOID:
        raise ValueError(
            f'{label_path}: found label {labels.max()}, expected 0-{NUM_CLASSES - 1}, or {VOID} '
            'for unlabelled pixels: is this the 11-class version?'
        )
    targets = {
        out / 'images' / split / f'{image_path.stem}.jpg': image,
        out / 'annotations' / split / f'{image_path.stem}.png': np.where(
            labels == VOID, 255, labels
        ).astype(np.uint8),
    }
    for path, array in targets.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), array, [cv2.IMWRITE_JPEG_QUALITY, 95])


if __name__ == '__main__':
    sys.exit(main())
