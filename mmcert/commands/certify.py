"""Certifies the images of a folder under a model of any library, without a config.

With a config of OpenMMLab and a checkpoint in place of options it certifies the config's test data,
as ``mmcert test`` does.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

from mmcert.cli import UsageError, command, tool_parser

MODELS = """
models:
  hf:FOLDER              of transformers, as save_pretrained wrote it
  smp:FOLDER             of segmentation-models-pytorch, likewise
  torchvision:NAME:FILE  a state dict for an architecture of torchvision
  onnx:FILE              for ONNX Runtime
  py:FILE:NAME           what a function without arguments in a Python file returns: a module

example:
  mmcert certify --model hf:segformer --images photos --labels labels --sigma 0.25

With a config of OpenMMLab: mmcert certify CONFIG CHECKPOINT, see mmcert test --help.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.epilog, parser.formatter_class = MODELS, argparse.RawDescriptionHelpFormatter
    parser.add_argument('--model', required=True, help='the model, see below')
    parser.add_argument('--images', type=Path, required=True, help='folder of images')
    parser.add_argument('--labels', type=Path, help='folder of their label maps, PNG')
    parser.add_argument('--out', type=Path, help='folder for results (work_dirs/MODEL/certified)')
    _add_settings(parser.add_argument_group('what is certified'))
    _add_inputs(parser.add_argument_group('images, labels and what the model wants'))
    _add_results(parser.add_argument_group('how it runs, and what it writes'))
    _add_processes(parser.add_argument_group('several jobs and processes'))
    return parser.parse_args(argv)


def _add_settings(group: Any) -> None:
    group.add_argument('--sigma', type=float, required=True, help='noise level, in [0, 1] units')
    group.add_argument('--tau', type=float, help='probability threshold (default: 0.75)')
    group.add_argument('--alpha', type=float, help='error probability per image (0.001)')
    group.add_argument('--n0', type=int, help='selection draws (10)')
    group.add_argument('--n', type=_number_or_auto, help='estimation draws, or auto (100)')
    group.add_argument('--budget', type=int, help='with --n auto: most draws')
    group.add_argument('--procedure', help='multiple testing procedure (ordered_holm)')
    group.add_argument('--selection', help='holdout, same_draws or auto (auto)')
    group.add_argument('--k', type=float, help='for kfwer: fewer than k may be wrong')
    group.add_argument('--hierarchy', help='groups to fall back on: cityscapes or camvid')
    group.add_argument('--seed', type=int, help='of the draws (0)')


def _add_inputs(group: Any) -> None:
    group.add_argument('--image-suffix', help='how names of images end (any picture)')
    group.add_argument('--label-suffix', default='.png', help='what stands in its place (.png)')
    group.add_argument('--limit', type=int, help='take so many images, evenly spaced')
    group.add_argument('--classes', nargs='+', metavar='NAME', help='names, or their number')
    group.add_argument('--ignore-index', type=int, default=255, help='label of no class (255)')
    group.add_argument(
        '--reduce-labels', action='store_true', help='0 in a label map is no class, 1 the first'
    )
    group.add_argument('--mean', type=float, nargs='+', help='subtracted from an RGB image')
    group.add_argument('--std', type=float, nargs='+', help='divides it')
    group.add_argument(
        '--pixel-range', type=float, default=1.0, help='what white is to --mean: 1 or 255 (1)'
    )
    group.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='resize to')


def _add_processes(group: Any) -> None:
    group.add_argument('--shard', help='certify a part: 3/16 is the third of each 16 images')
    group.add_argument(
        '--launcher', choices=['none', 'pytorch'], default='none',
        help='pytorch for processes that torchrun has started (none)',
    )  # fmt: skip
    group.add_argument(
        '--distribute', choices=['images', 'draws'], default='images',
        help='what they share: the images, or the draws of each (images)',
    )  # fmt: skip


def _add_results(group: Any) -> None:
    group.add_argument('--batch-size', type=_number_or_auto, help='draws at once, or auto (8)')
    group.add_argument('--device', help='cpu or cuda (cuda where there is one)')
    group.add_argument('--draw-every', type=int, default=0, help='draw every so-many-th image')
    group.add_argument(
        '--confidence', choices=['pictures', 'arrays', 'none'], default='pictures',
        help='what is written of the confidence in each pixel',
    )  # fmt: skip


def _number_or_auto(text: str) -> int | str:
    if text == 'auto':
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number or 'auto', got {text!r}") from None


SETTINGS = (
    'sigma', 'tau', 'alpha', 'n0', 'n', 'budget', 'procedure', 'selection', 'hierarchy', 'seed',
    'batch_size',
)  # fmt: skip
"""Options that are settings of a plan, under the same names."""


@command
def main() -> int:
    """Certifies, and prints and stores the results."""
    words = sys.argv[1:]
    if words and not words[0].startswith('-'):
        from mmcert.commands import test

        return test.main()
    args = parse_args()
    check(args)
    try:
        with processes_of(args) as processes:
            return certify(args, processes)
    except KeyboardInterrupt:
        print('\ninterrupted; the same command continues where this one stopped', file=sys.stderr)
        return 130


def processes_of(args: argparse.Namespace) -> Any:
    """The processes of the job, as a context."""
    if args.launcher == 'none':
        # Without torch: much can still be refused.
        if int(os.environ.get('WORLD_SIZE', '1')) > 1 and 'LOCAL_RANK' in os.environ:
            raise UsageError('torchrun has started several processes: give --launcher pytorch')
        return contextlib.nullcontext()
    from mmcert.sampling.process_group import joined_processes

    return joined_processes()


def certify(args: argparse.Namespace, processes: Any) -> int:
    """Certifies as one of some processes; None is this one alone."""
    from mmcert.integrations.folder import FolderRun, find_images
    from mmcert.votes.shards import Shard

    shard = None if args.shard is None else Shard.parse(args.shard)
    files = find_images(
        args.images,
        args.labels,
        image_suffix=args.image_suffix,
        label_suffix=args.label_suffix,
        limit=args.limit,
    )
    if shard is not None:
        shard.positions(len(files))  # Refuses more shards than images.
    is_first = processes is None or processes.rank == 0
    logger = _logger(logging.INFO if is_first else logging.WARNING)
    of_draws = processes if args.distribute == 'draws' else None
    smoothed = smoothed_of(args, logger, of_draws)
    run = FolderRun(
        smoothed,
        files,
        logger,
        draw_every=args.draw_every,
        confidence=None if args.confidence == 'none' else args.confidence,
        reduce_labels=args.reduce_labels or smoothed.model.reduces_labels,
        processes=processes if of_draws is None else None,
        shard=shard,
    )
    summary = run.run()
    if not is_first:
        return 0
    print(summary.describe())
    print(f'certificates, votes and figures: {run.out_dir}')
    if shard is None:
        print(f'to look at them: mmcert report {run.out_dir} --data {args.images}')
    else:
        print(f'once all {shard.count} shards have run: mmcert merge {run.out_dir}')
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuses what needs no library to be refused."""
    if args.limit is not None and args.limit < 1:
        raise UsageError(f'--limit must be at least 1, got {args.limit}')
    if args.draw_every < 0:
        raise UsageError(f'--draw-every must be at least 0, got {args.draw_every}')
    for folder in (args.images, args.labels):
        if folder is not None and not folder.is_dir():
            raise UsageError(f'there is no folder {folder}')


def smoothed_of(args: argparse.Namespace, logger: logging.Logger, processes: Any = None) -> Any:
    """The smoothed model that was asked for."""
    from mmcert.certifier.plan_settings import PlanSettings
    from mmcert.integrations.loading import InputOptions, load_model
    from mmcert.integrations.smoothed import Smoothed

    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    if args.k is not None:
        settings['k'] = int(args.k) if args.k.is_integer() else args.k
    plan_settings = PlanSettings(**settings)
    out = args.out or Path('work_dirs') / _name(args.model) / 'certified'
    size = None if args.size is None else (args.size[0], args.size[1])
    options = InputOptions(args.mean, args.std, args.pixel_range, size)
    model = load_model(args.model, options, args.device or _device())
    given = args.model.partition(':')[2].rpartition(':')[2] if args.model[:3] != 'py:' else ''
    return Smoothed(
        model,
        plan_settings,
        classes=_classes(args.classes),
        results_dir=out,
        ignore_index=args.ignore_index,
        identity={'checkpoint': Path(given).name} if given else None,
        logger=logger,
        processes=processes,
    )


def _classes(given: list[str] | None) -> list[str] | int | None:
    if given is not None and len(given) == 1 and given[0].isdecimal():
        return int(given[0])
    return given


def _name(model: str) -> str:
    """A name of a folder for the results of a model."""
    kind, _, where = model.partition(':')
    if kind == 'py':
        where = where.rpartition(':')[0]
    return Path(where.rpartition(':')[2]).stem or kind


def _device() -> str:
    import torch

    # Processes of a job have one each.
    return f'cuda:{torch.cuda.current_device()}' if torch.cuda.is_available() else 'cpu'


def _logger(level: int) -> logging.Logger:
    """Prints what a run says, from a level on."""
    logger = logging.getLogger('mmcert')
    if not any(isinstance(handler, _Printer) for handler in logger.handlers):
        logger.addHandler(_Printer())
    logger.setLevel(level)
    return logger


class _Printer(logging.Handler):
    """Prints lines with the time, to whatever standard output is by then."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)
