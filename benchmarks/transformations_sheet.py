"""Draws every transformation at severities 1 to 5 on one image, beside the image itself.

    python benchmarks/transformations_sheet.py [IMAGE] --out sheet.png

Without IMAGE it takes one of CamVid's test split, or a drawn street scene if CamVid is not there.
Values that leave [0, 1] are clipped in the picture only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from study import ROOT

if TYPE_CHECKING:
    import torch

    from mmcert.transformations import Transformation

TITLE = 18
"""Height of the line of text above each picture, in pixels."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('image', type=Path, nargs='?', help='any picture that OpenCV reads')
    parser.add_argument('--out', type=Path, required=True, help='the sheet, .png or .jpg')
    parser.add_argument('--height', type=int, default=180, help='of each picture, in pixels')
    return parser.parse_args()


def load(path: Path | None, height: int) -> NDArray[np.uint8]:
    """The image at a height, BGR.

    Raises:
        ValueError: If the file is not a picture.
    """
    files = sorted((ROOT / 'data' / 'camvid' / 'images' / 'test').glob('*'))
    if path is None and not files:
        from mmcert.compat import enable_mmcv_lite

        enable_mmcv_lite()
        from mmcert.scenes import draw_scene

        return draw_scene(height, height * 4 // 3, (2, 0))[0]
    path = path or files[len(files) // 2]
    picture = cv2.imread(str(path))
    if picture is None:
        raise ValueError(f'{path} is not a picture')
    width = round(height * picture.shape[1] / picture.shape[0])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def panel(image: torch.Tensor, title: str) -> NDArray[np.uint8]:
    """A picture with its title above, BGR."""
    pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    drawn = cv2.copyMakeBorder(pixels, TITLE, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255,) * 3)
    where, font = (4, TITLE - 5), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(drawn, title, where, font, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return drawn


def row(transformation: Transformation, image: torch.Tensor) -> NDArray[np.uint8]:
    """The image and what severities 1 to 5 make of it, side by side."""
    panels = [panel(image, transformation.name)]
    for severity in range(1, 6):
        parameters = transformation.severity(severity, size=tuple(image.shape[-2:]))
        pairs = zip(transformation.parameters, parameters.tolist(), strict=True)
        title = ', '.join(f'{p.name} {value:.3g}' for p, value in pairs)
        panels.append(panel(transformation(image, parameters), title))
    return np.hstack(panels)


def main() -> None:
    """Draws the sheet."""
    args = parse_args()

    import torch

    from mmcert.transformations import TRANSFORMATIONS, build

    picture = load(args.image, args.height)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        sheet = np.vstack([row(build(name), image) for name in TRANSFORMATIONS])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.out), sheet):
        raise OSError(f'cannot write {args.out}')
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
