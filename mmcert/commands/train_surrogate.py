"""Trains the surrogate of a transformation, and reports on held-out images.

Writes ``surrogate.pth``, which ``mmcert.SurrogateTransform`` takes, ``surrogate.json`` with the
errors on the held-out images, and ``surrogate.png`` with the real transformation beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmcert.cli import TO_TRAIN, TO_VALIDATE, command, load_run_config, network_parser

SHOWN_PARAMETERS = 3


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    return network_parser(__doc__, 'SurrogateModel', 'surrogates').parse_args(argv)


@command
def main() -> int:
    """Trains, measures and writes the results."""
    args = parse_args()
    cfg = load_run_config(args, (*TO_TRAIN, *TO_VALIDATE), 'work_dirs/surrogates')
    from mmcert.engine.network_training import train_network
    from mmcert.models import SurrogateModel

    return train_network(cfg, args, SurrogateModel, 'surrogates', report)


def report(runner: Any, pictures: int) -> None:
    """Writes what the tool promises into the work folder."""
    from mmcert.files import write_json
    from mmcert.surrogates import save_surrogate

    model = runner.model
    metrics = {key: float(value) for key, value in runner.val().items()}
    folder, surrogate = Path(runner.work_dir), model.surrogate.eval()
    save_surrogate(folder / 'surrogate.pth', surrogate)
    answer = {
        'surrogate': surrogate.spec(),
        'digest': surrogate.digest(),
        'sigma1': model.sigma1,
        'sigma2': model.sigma2,
        'attack': model.attack.spec(),
        'images': len(runner.val_dataloader.dataset),
        'held_out': metrics,
    }
    write_json(folder / 'surrogate.json', answer)
    if pictures:
        draw(runner, surrogate, pictures, folder / 'surrogate.png')
    runner.logger.info(f'wrote {folder / "surrogate.pth"}, surrogate.json and surrogate.png')


def draw(runner: Any, surrogate: Any, pictures: int, path: Path) -> None:
    """Draws held-out images beside what the surrogate makes of them."""
    import cv2

    from mmcert.engine.network_training import drawn_images
    from mmcert.visualization.surrogates import compare_surrogate

    model, images = runner.model, drawn_images(runner, pictures)
    parameters = surrogate.parameters_at(model.evenly_spaced(SHOWN_PARAMETERS))
    cv2.imwrite(str(path), compare_surrogate(surrogate, images, parameters, model.sigma2))
