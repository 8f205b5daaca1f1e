"""Trains the surrogate of a transformation, and reports on held-out images.

Writes ``surrogate.pth``, which ``mmcert.SurrogateTransform`` takes, ``surrogate.json`` with the
errors on the held-out images, and ``surrogate.png`` with the real transformation beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmcert.compat import enable_mmcv_lite, resume_from_work_dir, reuse_freed_memory

enable_mmcv_lite()

import cv2  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from mmcert.models import SurrogateModel  # noqa: E402
from mmcert.surrogates import save_surrogate  # noqa: E402
from mmcert.visualization.surrogates import compare_surrogate  # noqa: E402

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
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value overrides')
    return parser.parse_args(argv)


def main() -> int:
    """Trains, measures and writes the results."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    folder = args.work_dir or cfg.get('work_dir')
    cfg.work_dir = folder or f'work_dirs/surrogates/{Path(args.config).stem}'
    if args.resume:
        resume_from_work_dir(cfg)
    if not torch.cuda.is_available():
        reuse_freed_memory()
    try:
        runner = checked_runner(cfg)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    try:
        report(runner, args.pictures)
    except KeyboardInterrupt:
        print('\ninterrupted; the same command with --resume continues', file=sys.stderr)
        return 130
    return 0


def checked_runner(cfg: Config) -> Runner:
    """A runner that trains a surrogate.

    Args:
        cfg (Config): As the user wrote it, with ``work_dir``.

    Returns:
        Runner: Its model is a SurrogateModel.

    Raises:
        ValueError: If the model is another one, or an argument out of range.
        FileNotFoundError: If the weights to start from are not there.
    """
    start = cfg.get('load_from')
    if start and '://' not in start and not Path(start).exists():
        raise FileNotFoundError(
            f'the weights to start from, load_from={start}, are not there: train their config '
            'first, or start afresh with --cfg-options load_from=None'
        )
    cfg.launcher = 'none'
    runner = Runner.from_cfg(cfg)
    if not isinstance(runner.model, SurrogateModel):
        raise ValueError(
            f'the model must be an mmcert.SurrogateModel, got {type(runner.model).__name__}: see '
            'configs/surrogates'
        )
    return runner


def report(runner: Runner, pictures: int) -> None:
    """Trains, and writes what the tool promises into the work folder."""
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
    (folder / 'surrogate.json').write_text(json.dumps(answer, indent=1) + '\n')
    if pictures:
        dataset = runner.val_dataloader.dataset
        chosen = [dataset[round(i)] for i in torch.linspace(0, len(dataset) - 1, pictures).tolist()]
        batch = {key: [item[key] for item in chosen] for key in chosen[0]}
        images = model.data_preprocessor(batch, False)['inputs']
        parameters = surrogate.parameters_at(model.evenly_spaced(SHOWN_PARAMETERS))
        picture = compare_surrogate(surrogate, images, parameters, model.sigma2)
        cv2.imwrite(str(folder / 'surrogate.png'), picture)
    runner.logger.info(f'wrote {folder / "surrogate.pth"}, surrogate.json and surrogate.png')


if __name__ == '__main__':
    sys.exit(main())
