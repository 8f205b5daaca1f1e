"""The model and inputs of a command: a config and a checkpoint, or any library's and a folder."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from mmcert.cli import (
    TO_TEST,
    UsageError,
    add_config,
    add_limit,
    add_run_arguments,
    check_checkpoint,
    check_out,
    load_run_config,
)

MODELS = """
models:
  hf:FOLDER              of transformers, as save_pretrained wrote it
  smp:FOLDER             of segmentation-models-pytorch, likewise
  torchvision:NAME:FILE  a state dict for an architecture of torchvision
  onnx:FILE              for ONNX Runtime
  py:FILE:NAME           what a function without arguments in a Python file returns: a module
"""

SETTINGS = (
    'sigma', 'tau', 'alpha', 'n0', 'n', 'budget', 'procedure', 'selection', 'k', 'hierarchy',
    'seed', 'batch_size',
)  # fmt: skip
"""Options that are settings of a plan, under the same names."""

INPUTS = (
    'images', 'labels', 'out', 'image_suffix', 'label_suffix', 'classes', 'ignore_index',
    'reduce_labels', 'one_channel', 'mean', 'std', 'pixel_range', 'resize', 'device',
)  # fmt: skip
"""Options of a model of any library beside those."""

OF_CONFIGS = {'work_dir': None, 'cfg_options': None, 'launcher': 'none'}
"""Options that belong to a config, with their defaults."""


def add_source(parser: argparse.ArgumentParser, own: Collection[str] = ()) -> None:
    """Adds a config and its checkpoint, and the options of a model of any library in their place.

    ``own`` are settings that the command adds itself.
    """
    add_config(parser, optional=True)
    add_run_arguments(parser)
    add_limit(parser)
    add_model(parser, own)


def add_model(
    parser: argparse.ArgumentParser, own: Collection[str] = (), required: bool = False
) -> None:
    """Adds the options of a model of any library and a folder of images."""
    parser.epilog = MODELS + (parser.epilog or '')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    without = '' if required else ', without a config'
    group = parser.add_argument_group(f'a model of any library{without}')
    group.add_argument('--model', required=required, help='the model, see below')
    group.add_argument('--images', type=Path, required=required, help='folder of images')
    group.add_argument('--labels', type=Path, help='folder of their label maps, PNG (none)')
    group.add_argument('--out', type=Path, help='folder for results (work_dirs/MODEL/certified)')
    group.add_argument('--device', help='cpu or cuda (cuda where there is one)')
    _add_settings(parser.add_argument_group('what is certified of it'), own, required)
    _add_inputs(parser.add_argument_group('images, labels and what it wants of them'))


def _add_settings(group: Any, own: Collection[str], required: bool) -> None:
    def add(name: str, **options: Any) -> None:
        if name not in own:
            group.add_argument(f'--{name}', **options)

    add('sigma', type=float, required=required, help='noise level, in [0, 1] units')
    add('tau', type=float, help='probability threshold (0.75)')
    add('alpha', type=float, help='error probability per image (0.001)')
    add('n0', type=int, help='selection draws (10)')
    add('n', type=number_or_auto, help='estimation draws, or auto (100)')
    add('budget', type=int, help='most draws, which --n auto needs')
    add('procedure', help='multiple testing procedure (ordered_holm)')
    add('selection', help='holdout, same_draws or auto (auto)')
    add('k', type=float, help='fewer than k may be wrong, for kfwer, which needs it')
    add('hierarchy', help='groups to fall back on: cityscapes or camvid (none)')
    add('seed', type=int, help='of the draws (0)')
    add('batch-size', type=number_or_auto, help='draws at once, or auto (8)')


def _add_inputs(group: Any) -> None:
    group.add_argument('--image-suffix', help='how names of images end (any picture)')
    group.add_argument('--label-suffix', help='what stands in its place (.png)')
    group.add_argument(
        '--classes', nargs='+', metavar='NAME', help='names, or their number (what the model says)'
    )
    group.add_argument('--ignore-index', type=int, help='label of no class (255)')
    group.add_argument(
        '--reduce-labels', action='store_true', default=None,
        help='0 in a label map is no class, 1 the first (what the model says)',
    )  # fmt: skip
    group.add_argument(
        '--one-channel', choices=['scores', 'probabilities'],
        help='what the channel of a binary model holds (what can be seen of it)',
    )  # fmt: skip
    group.add_argument(
        '--mean', type=float, nargs='+', help='subtracted from an RGB image (what the model says)'
    )
    group.add_argument('--std', type=float, nargs='+', help='divides it (likewise)')
    group.add_argument('--pixel-range', type=float, help='what white is to --mean: 1 or 255 (1)')
    group.add_argument(
        '--resize', type=int, nargs=2, metavar=('H', 'W'),
        help='resize images to (what the model says, or not at all)',
    )  # fmt: skip


def number_or_auto(text: str) -> int | str:
    """The type of an option that takes a number or 'auto'."""
    if text == 'auto':
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number or 'auto', got {text!r}") from None


def source_of(
    args: argparse.Namespace, check: Callable[[Any], None] = lambda plan: None, seed: bool = False
) -> Any:
    """The source that a command line asks for.

    ``check`` takes the plan, and refuses it before a model is built if it can. With ``seed`` the
    command has a ``--seed`` for either route.
    """
    if uses_model(args, ('seed',) if seed else ()):
        return folder_source(args, check)
    if args.config is None or args.checkpoint is None:
        raise UsageError('give a config and a checkpoint, or --model, --images and --sigma')
    check_checkpoint(args.checkpoint)
    cfg = smoothing_config(args, TO_TEST)
    cfg.load_from = args.checkpoint
    from mmcert.engine import check_config

    if (plan := check_config(cfg)) is not None:
        check(plan)
    from mmengine.runner import Runner

    from mmcert.engine.source import RunnerSource

    return RunnerSource(Runner.from_cfg(cfg))


def smoothing_config(args: argparse.Namespace, needed: Sequence[str]) -> Any:
    """The config of a run; a ``UsageError`` if it has no ``smoothing``, or not what is needed."""
    cfg = load_run_config(args, needed)
    if cfg.get('smoothing') is None:
        raise UsageError(
            f'{args.config} has no `smoothing`; add for example --cfg-options smoothing.sigma=0.25'
        )
    return cfg


def uses_model(args: argparse.Namespace, shared: Collection[str] = ()) -> bool:
    """Whether a model of any library is meant; refuses what does not go with it, or with a config.

    ``shared`` are options that go with either.
    """
    if args.model is not None:
        if args.config is not None:
            raise UsageError(f'give either a config ({args.config}) or --model, not both')
        for name, default in OF_CONFIGS.items():
            if getattr(args, name, default) != default:
                raise UsageError(f'{_flag(name)} goes with a config, not with --model')
        return True
    for name in (*INPUTS, *SETTINGS):
        value = getattr(args, name, None)
        if value is None or name in shared:
            continue
        if name == 'images':
            if not str(value).isdecimal() or int(str(value)) == 0 or args.limit is not None:
                raise UsageError(
                    f'--images {value}: with a config it is a number of inputs, as --limit is, and '
                    'with --model a folder'
                )
            args.limit = int(str(value))
            continue
        inside = f': --cfg-options smoothing.{name}={value}' if name in SETTINGS else ''
        raise UsageError(f'{_flag(name)} goes with --model; a config says it itself{inside}')
    return False


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def folder_source(
    args: argparse.Namespace,
    check: Callable[[Any], None] = lambda plan: None,
    limit: int | None = None,
) -> Any:
    """The images of a folder under a model of any library; with a ``limit`` so many of them."""
    settings = settings_of(args)
    check_folders(args)
    from mmcert.integrations.smoothed import image_plan

    check(image_plan(settings))
    from mmcert.integrations.source import FolderSource

    files, log = files_of(args, limit), logger()
    smoothed = smoothed_of(args, settings, log)
    reduces = bool(args.reduce_labels) or smoothed.model.reduces_labels
    return FolderSource(smoothed, files, log, reduce_labels=reduces)


def check_folders(args: argparse.Namespace) -> None:
    """Refuses folders that are not there, and where results cannot go."""
    if args.images is None:
        raise UsageError('--model needs --images, a folder of images')
    for folder in (args.images, args.labels):
        if folder is not None and not folder.is_dir():
            what = f'{folder} is a file: give the folder it is in'
            raise UsageError(what if folder.is_file() else f'there is no folder {folder}')
    out = results_folder(args)
    if args.images.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(
            f'results would go to {out}, which is in the folder of images {args.images}: their '
            'pictures would be taken for images. Give another folder by --out'
        )
    check_out(out)


def settings_of(args: argparse.Namespace) -> Any:
    """The settings of a plan that were given."""
    if args.sigma is None:
        raise UsageError('--model needs --sigma, the noise level in [0, 1] units, such as 0.25')
    from mmcert.certifier.plan_settings import PlanSettings

    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    if 'k' in given and given['k'].is_integer():
        given['k'] = int(given['k'])
    return PlanSettings(**given)


def files_of(args: argparse.Namespace, limit: int | None) -> Any:
    """The images, or so many of them, with their label maps."""
    from mmcert.integrations.folder import find_images

    return find_images(
        args.images,
        args.labels,
        image_suffix=args.image_suffix,
        label_suffix=args.label_suffix or '.png',
        limit=limit,
    )


def smoothed_of(
    args: argparse.Namespace, settings: Any, log: logging.Logger, processes: Any = None
) -> Any:
    """The smoothed model, with a folder for its results."""
    from mmcert.integrations.loading import InputOptions, load_model
    from mmcert.integrations.smoothed import Smoothed
    from mmcert.metrics.confusion import IGNORE_INDEX

    size = None if args.resize is None else (args.resize[0], args.resize[1])
    options = InputOptions(args.mean, args.std, args.pixel_range or 1.0, size)
    model = load_model(args.model, options, args.device or _device())
    if args.one_channel is not None:
        model.read_one_channel(args.one_channel)
    given = args.model.partition(':')[2].rpartition(':')[2] if args.model[:3] != 'py:' else ''
    return Smoothed(
        model,
        settings,
        classes=_classes(args.classes),
        results_dir=results_folder(args),
        ignore_index=IGNORE_INDEX if args.ignore_index is None else args.ignore_index,
        identity={'checkpoint': Path(given).name} if given else None,
        logger=log,
        processes=processes,
    )


def results_folder(args: argparse.Namespace) -> Path:
    """Where results go."""
    if args.out is not None:
        return args.out
    kind, _, where = args.model.partition(':')
    if kind == 'py':
        where = where.rpartition(':')[0]
    return Path('work_dirs') / (Path(where.rpartition(':')[2]).stem or kind) / 'certified'


def _classes(given: list[str] | None) -> list[str] | int | None:
    if given is not None and len(given) == 1 and given[0].isdecimal():
        return int(given[0])
    return given


def _device() -> str:
    import torch

    # Processes of a job have one each.
    return f'cuda:{torch.cuda.current_device()}' if torch.cuda.is_available() else 'cpu'


def logger(level: int = logging.INFO) -> logging.Logger:
    """Prints what a run says, from a level on."""
    found = logging.getLogger('mmcert')
    if not any(isinstance(handler, _Printer) for handler in found.handlers):
        found.addHandler(_Printer())
    found.setLevel(level)
    return found


class _Printer(logging.Handler):
    """Prints lines with the time, to whatever standard output is by then."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)
