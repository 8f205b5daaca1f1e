"""Trains a denoiser, maybe through a frozen segmentor, and reports on held-out images.

Writes ``denoiser.pth``, which ``smoothing.denoiser`` takes, ``denoiser.json`` with the figures of
the held-out images, and ``denoiser.png`` with some of them, noisy and denoised.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmcert.cli import TO_TRAIN, TO_VALIDATE, command, load_run_config, network_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    return network_parser(__doc__, 'DenoiserModel', 'denoisers').parse_args(argv)


@command
def main() -> int:
    """Trains, measures and writes the results."""
    args = parse_args()
    cfg = load_run_config(args, (*TO_TRAIN, *TO_VALIDATE), 'work_dirs/denoisers')
    from mmcert.engine.network_training import train_network
    from mmcert.models import DenoiserModel

    return train_network(cfg, args, DenoiserModel, 'denoisers', report)


def report(runner: Any, pictures: int) -> None:
    """Writes what the tool promises into the work folder."""
    from mmcert.denoisers import save_denoiser
    from mmcert.files import write_json

    model = runner.model
    metrics = {key: float(value) for key, value in runner.val().items()}
    folder, denoiser = Path(runner.work_dir), model.denoiser.eval()
    through = model.segmentor.name if model.segmentor else ''
    save_denoiser(folder / 'denoiser.pth', denoiser, through)
    answer = {
        'denoiser': {'type': type(denoiser).__name__, **denoiser.spec()},
        'digest': denoiser.digest(),
        'trained_through': through,
        'images': len(runner.val_dataloader.dataset),
        'held_out': metrics,
    }
    write_json(folder / 'denoiser.json', answer)
    if pictures:
        draw(runner, denoiser, pictures, folder / 'denoiser.png')
    runner.logger.info(f'wrote {folder / "denoiser.pth"}, denoiser.json and denoiser.png')


def draw(runner: Any, denoiser: Any, pictures: int, path: Path) -> None:
    """Draws held-out images, noisy and denoised."""
    import cv2

    from mmcert.engine.network_training import drawn_images
    from mmcert.visualization.denoisers import compare_denoiser

    images = drawn_images(runner, pictures)
    cv2.imwrite(str(path), compare_denoiser(denoiser, images, denoiser.high))
