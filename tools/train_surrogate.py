"""Trains the surrogate of a transformation, and reports on held-out images.

Writes ``surrogate.pth``, which ``mmcert.SurrogateTransform`` takes, ``surrogate.json`` with the
errors on the held-out images, and ``surrogate.png`` with the real transformation beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mmcert.cli import UsageError, add_cfg_options, command, load_run_config

SHOWN_PARAMETERS = 3


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='path of an mmengine config whose model is a SurrogateModel')
    parser.add_argument(
        '--work-dir',
        help='where logs, checkpoints and results go (default: work_dirs/surrogates/NAME, with the '
        "config's name)",
    )
    parser.add_argument('--resume', action='store_true', help='continue from the work folder')
    parser.add_argument('--pictures', type=int, default=2, help='held-out images to draw')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Trains, measures and writes the results."""
    args = parse_args()
    cfg = load_run_config(args, 'work_dirs/surrogates')
    import torch

    from mmcert.compat import resume_from_work_dir, reuse_freed_memory

    if args.resume:
        resume_from_work_dir(cfg)
    if not torch.cuda.is_available():
        reuse_freed_memory()
    runner = checked_runner(cfg)
    try:
        report(runner, args.pictures)
    except KeyboardInterrupt:
        print('\ninterrupted; the same command with --resume continues', file=sys.stderr)
        return 130
    return 0


def checked_runner(cfg: Any) -> Any:
    """A runner that trains a surrogate.

    Args:
        cfg (mmengine.config.Config): As the user wrote it, with ``work_dir``.

    Returns:
        mmengine.runner.Runner: Its model is a SurrogateModel.

    Raises:
        UsageError: If the model is another one, or the weights to start from are not there.
    """
    from mmengine.runner import Runner

    from mmcert.models import SurrogateModel

    start = cfg.get('load_from')
    if start and '://' not in start and not Path(start).exists():
        raise UsageError(
            f'the weights to start from, load_from={start}, are not there: train their config '
            'first, or start afresh with --cfg-options load_from=None'
        )
    runner = Runner.from_cfg(cfg)
    if not isinstance(runner.model, SurrogateModel):
        raise UsageError(
            f'the model must be an mmcert.SurrogateModel, got {type(runner.model).__name__}: see '
            'configs/surrogates'
        )
    return runner


def report(runner: Any, pictures: int) -> None:
    """Trains, and writes what the tool promises into the work folder."""
    from mmcert.files import write_json
    from mmcert.surrogates import save_surrogate

    model = runner.model
    runner.train()
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
    import numpy as np

    from mmcert.visualization.surrogates import compare_surrogate

    model, dataset = runner.model, runner.val_dataloader.dataset
    chosen = [dataset[round(i)] for i in np.linspace(0, len(dataset) - 1, pictures).tolist()]
    batch = {key: [item[key] for item in chosen] for key in chosen[0]}
    images = model.data_preprocessor(batch, False)['inputs']
    parameters = surrogate.parameters_at(model.evenly_spaced(SHOWN_PARAMETERS))
    cv2.imwrite(str(path), compare_surrogate(surrogate, images, parameters, model.sigma2))


if __name__ == '__main__':
    sys.exit(main())
