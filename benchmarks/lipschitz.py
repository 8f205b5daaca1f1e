"""How tight the Lipschitz constants of the transformations are, and what they cost.

CPU time of one thread. Images of CamVid's test split at 180 x 240, or a drawn street scene if
CamVid is not there; see ``transformations_sheet.py``. Each attack set is cut into pieces or cells,
of which some are looked at. A constant is compared with the largest speed at random places of its
cell, by the transformation itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from study import ROOT, Results, evenly_spaced, machine, table, write_results

if TYPE_CHECKING:
    import torch

    from mmcert.transformations import Transformation

HEIGHT, WIDTH = 180, 240

SETS: list[tuple[str, tuple[float, ...], tuple[float, ...], int]] = [
    ('brightness', (-0.1,), (0.1,), 16),
    ('contrast', (-0.2,), (0.2,), 16),
    ('brightness_contrast', (-0.2, -0.1), (0.2, 0.1), 8),
    ('gamma', (0.7,), (1.4,), 16),
    ('gaussian_blur', (0,), (4,), 16),
    ('defocus_blur', (0,), (3,), 16),
    ('motion_blur', (0, -90), (6, 90), 16),
    ('rotation', (-0.5,), (0.5,), 16),
    ('scaling', (0.99,), (1.01,), 16),
    ('rotation_scaling', (-0.5, 0.99), (0.5, 1.01), 8),
    ('rotational_blur', (0,), (3,), 16),
    ('rotational_blur', (0,), (3,), 64),
    ('zoom_blur', (1,), (1.06,), 16),
    ('zoom_blur', (1,), (1.06,), 64),
]
"""Transformation, ends of the attack set, and into how many parts each of its sides is cut."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=3, help='how many')
    parser.add_argument('--cells', type=int, default=4, help='how many of each attack set')
    parser.add_argument('--places', type=int, default=20, help='random ones, in each cell')
    return parser.parse_args()


def main() -> int:
    """Measures and writes."""
    args = parse_args()

    import torch

    from mmcert.transformations import build

    torch.set_num_threads(1)
    images, rows = load(args.images), []
    for name, low, high, parts in SETS:
        ratios, seconds = measure(build(name), images, low, high, parts, args.cells, args.places)
        rows.append(
            {
                'transformation': name,
                'low': low,
                'high': high,
                'parts': parts,
                'constant_over_speed': ratios,
                'largest': max(ratios),
                'ms': 1000 * seconds,
            }
        )
        print(f'{name:20} {statistics.median(ratios):6.3f} {max(ratios):6.3f} {1000 * seconds:.2f}')
    content = {
        'size': [HEIGHT, WIDTH],
        'images': len(images),
        'cells': args.cells,
        'places': args.places,
        'machine': machine(),
        'rows': rows,
    }
    write_results('lipschitz', content)
    return 0


def load(count: int) -> list[torch.Tensor]:
    """Images (1, 3, H, W) in [0, 1], float64."""
    import cv2
    import torch
    from transformations_sheet import load as load_one

    files = sorted((ROOT / 'data' / 'camvid' / 'images' / 'test').glob('*'))
    paths = [files[k] for k in evenly_spaced(count, len(files), endpoint=False)] or [None]
    pictures = [cv2.resize(load_one(p, HEIGHT), (WIDTH, HEIGHT)) for p in paths]
    return [torch.from_numpy(p).permute(2, 0, 1)[None].double() / 255 for p in pictures]


def measure(
    transformation: Transformation,
    images: list[torch.Tensor],
    low: tuple[float, ...],
    high: tuple[float, ...],
    parts: int,
    cells: int,
    places: int,
) -> tuple[list[float], float]:
    """Constants over the largest speeds found, of all parameters, and median seconds."""
    import torch

    generator = torch.Generator().manual_seed(0)
    start, stop = torch.tensor([low, high], dtype=torch.float64)
    side = (stop - start) / parts
    ratios, seconds = [], []
    for image in images:
        for share in torch.linspace(0, 1, cells, dtype=torch.float64):
            # Along the diagonal of the attack set, from the first cell to the last.
            first = start + (share * (parts - 1)).round() * side
            began = time.thread_time()
            found = transformation.lipschitz(image, first, first + side)[0]
            seconds.append(time.thread_time() - began)
            place = torch.rand(places, len(low), generator=generator, dtype=torch.float64)
            for axis in range(len(low)):
                step = side * torch.eye(len(low), dtype=torch.float64)[axis] * 1e-4
                u = first + place * (side - step)
                speed = max(
                    float((transform(transformation, image, a + step) - at).norm())
                    for a, at in ((a, transform(transformation, image, a)) for a in u)
                ) / float(step.sum())
                if float(found[axis]) > 0:
                    # Else nothing moves, as of a defocus of less than half a pixel.
                    ratios.append(float(found[axis]) / speed)
    return ratios, statistics.median(seconds)


def transform(
    transformation: Transformation, image: torch.Tensor, parameter: torch.Tensor
) -> torch.Tensor:
    """The image at one parameter (P,)."""
    return transformation.transform(image, parameter[None])


def ends(values: list[float]) -> str:
    """A corner of a box, or an end of an interval."""
    text = ', '.join(f'{v:g}' for v in values)
    return f'({text})' if len(values) > 1 else text


def tightness_table(results: Results) -> list[str]:
    """One row for each attack set."""
    rows = [['attack set', 'parts', 'constant / speed: median', 'largest', 'ms an image']]
    row: dict[str, Any]
    for row in results['rows']:
        what = f'{row["transformation"]}, {ends(row["low"])} to {ends(row["high"])}'
        parts = ' x '.join([str(row['parts'])] * len(row['low']))
        median = statistics.median(row['constant_over_speed'])
        rows.append([what, parts, f'{median:.3f}', f'{row["largest"]:.2f}', f'{row["ms"]:.1f}'])
    return table(rows)


TABLES = {'lipschitz': tightness_table}

if __name__ == '__main__':
    sys.exit(main())
