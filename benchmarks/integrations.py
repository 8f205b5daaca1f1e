"""Trains and certifies the models of two tutorials: a SegFormer of transformers, a U-Net of smp.

The programs are those of ``docs/tutorials``, as they stand there: training for about a minute of
one core, with noise, on drawn street scenes. Then ``mmcert certify --model`` certifies test scenes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from study import (
    IMAGES,
    ROOT,
    WORK_DIRS,
    Results,
    machine,
    on_machine,
    percent,
    read_results,
    table,
    two,
    write_results,
)

TUTORIALS = ROOT / 'docs' / 'tutorials'
PYTHON = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)

MODELS = {
    'transformers': ('SegFormer of transformers', 'transformers', 'hf:segformer'),
    'smp': ('U-Net of segmentation-models-pytorch', 'segmentation_models_pytorch', 'smp:unet'),
}
"""Tutorials: what their model is, the library that they need, and the model for the command."""

SIZE = (64, 96)
SIGMA = 0.25


def main() -> int:
    """Trains and certifies, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', choices=MODELS, help='tutorials to run')
    parser.add_argument('--images', type=int, default=20, help='test scenes')
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    for name in args.only or MODELS:
        fresh = run(name, args.images)
        found: dict[str, Any] = {**read_results('integrations').get('models', {}), name: fresh}
        content = {
            'machine': machine(), 'sigma': SIGMA, 'images': args.images, 'size': SIZE,
            'models': found,
        }  # fmt: skip
        write_results('integrations', content, name)
    return 0


def run(name: str, images: int) -> Results:
    """Runs a tutorial's training and the command, in a work folder of its own."""
    import cv2
    import torch

    from mmcert.commands.main import run as mmcert
    from mmcert.scenes import write_scenes
    from tests.integrations.libraries import library

    library(MODELS[name][1])
    torch.set_num_threads(1)
    folder = WORK_DIRS / 'integrations' / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    page = (TUTORIALS / f'{name}.md').read_text()
    program = '\n'.join(PYTHON.findall(page.partition('\n## Certify')[0]))
    print(f'{name}: training', flush=True)
    started = time.process_time()
    exec(compile(program, name, 'exec'), names := {'__name__': name})
    trained = time.process_time() - started
    scenes = write_scenes('scenes', 'test', images, SIZE)
    started = time.process_time()
    mmcert(
        'certify',
        [
            '--model', MODELS[name][2], '--images', str(scenes / 'images'), '--labels',
            str(scenes / 'annotations'), '--sigma', str(SIGMA), '--out', 'certified',
            '--draw-every', str(images),
        ],
    )  # fmt: skip
    certified = time.process_time() - started
    summary = json.loads(Path('certified/summary.json').read_text())
    [picture] = Path('certified').glob('vis-*/*.png')
    cv2.imwrite(
        str(IMAGES / f'integrations-{name}.jpg'), cv2.imread(str(picture)),
        [cv2.IMWRITE_JPEG_QUALITY, 88],
    )  # fmt: skip
    parameters = sum(parameter.numel() for parameter in names['model'].parameters())
    certificate = summary['certificate']
    kept = ('radius', 'tau', 'alpha', 'procedure', 'n0', 'n', 'seed')
    return {
        'steps': names['STEPS'],
        'parameters': parameters,
        'train_seconds': trained,
        'seconds_per_image': certified / images,
        'rates': summary['rates'],
        'versions': certificate['model']['versions'],
        **{key: certificate[key] for key in kept},
    }


def certified(results: Results) -> list[str]:
    """What each model certifies, and what it takes."""
    models = results.get('models', {})
    if not models:
        return ['Not measured yet.']
    rows = [
        (
            'model', 'parameters', 'base accuracy', 'smoothed accuracy', 'certified accuracy',
            'certified mIoU', 'abstain', 'training', 'an image',
        )
    ]  # fmt: skip
    for name in filter(models.get, MODELS):
        found = models[name]
        rates = found['rates']
        rows.append(
            (
                MODELS[name][0], f'{found["parameters"] / 1e6:.2f} million',
                two(rates['base_aAcc']), two(rates['smoothed_aAcc']), two(rates['certAcc']),
                two(rates['mIoU']), percent(rates['abstain']),
                f'{found["steps"]} steps, {found["train_seconds"]:.0f} s',
                f'{found["seconds_per_image"]:.1f} s',
            )
        )  # fmt: skip
    first = next(iter(models.values()))
    height, width = results['size']
    return [
        *table(rows),
        '',
        f'{results["images"]} drawn test scenes of {height} x {width}, sigma = {results["sigma"]}, '
        f'l2 radius {two(first["radius"])}, n0 = {first["n0"]}, n = {first["n"]}, tau = '
        f'{first["tau"]}, alpha = {first["alpha"]:g} per image, procedure {first["procedure"]}, '
        f'seed {first["seed"]}. Seconds are processor time of one core, the loading of the model '
        f'included. Computed on {on_machine(results)}.',
    ]


TABLES = {'integrations': certified}

if __name__ == '__main__':
    sys.exit(main())
