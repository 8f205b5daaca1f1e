"""What the command lines share; imports nothing heavy, so that ``--help`` answers at once."""

import argparse
import errno
import functools
import importlib
import os
import re
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

PACKAGE = str(Path(__file__).parent)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Codes of errors of a disk without room."""


class UsageError(ValueError):
    """Something that the user of a tool can mend; the message says how."""


class ToolParser(argparse.ArgumentParser):
    """A parser that a shell can ask what may come next, where argcomplete is installed."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses, or answers the shell and ends."""
        if '_ARGCOMPLETE' in os.environ and args is None:
            import argcomplete

            argcomplete.autocomplete(self, exit_method=sys.exit)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuses a command line as all else is refused: in one line, not below all options."""
        self.exit(2, f'error: {message} (options: {self.prog} --help)\n')


def tool_parser(description: str | None) -> ToolParser:
    """The parser of a command with this docstring, with what all of them take."""
    parser = ToolParser(description=(description or '').splitlines()[0])
    parser.add_argument(
        '--debug', action='store_true', help='show where in the code an error was raised'
    )
    return parser


def command(main: Callable[[], int]) -> Callable[[], int]:
    """Has a command report what the user can mend in one line on stderr, with exit code 2.

    That is what mmcert refuses (a bad setting, a missing key), what the file system refuses, and
    ``UsageError``; ``--debug`` shows where it was raised. All other exceptions are bugs and keep
    their traceback. A reader that ends early (``| head``) ends the command, with exit code 141 as
    in a shell, and Ctrl-C with 130.
    """

    @functools.wraps(main)
    def run() -> int:
        try:
            status = main()
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # What is still to be printed must not fail once more when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            return interrupted('')
        except Exception as error:
            if '--debug' in sys.argv or not (told := _told(error)):
                raise
            # At once: other processes of a job may be saying the same.
            sys.stderr.write(f'{_who()}error: {told}{_advice(error)}\n')
            return 2

    return run


def _told(error: Exception) -> str:
    """What to tell the user of an exception; nothing if it is a bug."""
    kind = _unbuilt(error)
    if _is_for_the_user(error) and not (kind and getattr(error, 'filename', None)):
        # A KeyError prints its text in quotes, and that of a registry goes on about mmengine.
        if type(error) is KeyError:
            return re.split(r'\. Please|, but got \{', str(error.args[0]))[0]
        return str(error)
    if not kind:
        return ''
    first = (str(error).strip().splitlines() or [''])[0]
    return f'{kind} cannot be built: {type(error).__name__}: {first}'


def _unbuilt(error: BaseException) -> str:
    """What of a config mmengine was building when it raised this; empty if it was not building."""
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        if 'mmengine' not in Path(frame.f_code.co_filename).parts:
            continue
        if frame.f_code.co_name == 'build_from_cfg':
            cfg = frame.f_locals.get('cfg')
            kind = cfg.get('type') if isinstance(cfg, Mapping) else cfg
            return f'{getattr(kind, "__name__", kind)} of the config'
        if frame.f_code.co_name in ('from_cfg', 'build_test_loop', 'build_train_loop'):
            return 'the config'
    return ''


def _who() -> str:
    """Which process of a job this is, to begin a line; nothing if it is alone."""
    if os.environ.get('WORLD_SIZE', '1') == '1':
        return ''
    return f'process {os.environ.get("RANK", "?")}: '


def _is_for_the_user(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, is a refusal and no bug."""
    while error is not None:
        if isinstance(error, (UsageError, OSError)) or _lacks_a_desktop(error):
            return True
        raised_at = traceback.extract_tb(error.__traceback__)[-1:]
        # A config that names an unknown type.
        registry = any({'mmengine', 'registry'} <= {*Path(one.filename).parts} for one in raised_at)
        if registry and isinstance(error, KeyError):
            return True
        if isinstance(error, (ValueError, TypeError, RuntimeError, MemoryError)) and any(
            frame.filename.startswith(PACKAGE) and (frame.line or '').startswith('raise')
            for frame in raised_at
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _advice(error: BaseException) -> str:
    """What to do, where the message does not say it."""
    if getattr(error, 'errno', None) in FULL:
        return ': make room, and run the same command again'
    if 'need at least one array to concatenate' in str(error) and _unbuilt(error):
        return '. It has found no data: look at its data_root, data_prefix and ann_file'
    if _lacks_a_desktop(error):
        return (
            ': this OpenCV is for desktops. pip uninstall opencv-python; '
            'pip install --force-reinstall --no-deps opencv-python-headless'
        )
    return ''


def _lacks_a_desktop(error: BaseException) -> bool:
    """Whether OpenCV was imported that needs system libraries which are not there."""
    return isinstance(error, ImportError) and any(
        f'{library}.so' in str(error) for library in ('libGL', 'libgthread-2.0', 'libxcb')
    )


def interrupted(advice: str = 'the same command continues where this one stopped') -> int:
    """Says that Ctrl-C ended a command, and what goes on, if anything; its exit code."""
    # A second one ends it at once, without a traceback from somewhere in Python's own end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print('\ninterrupted' + (f'; {advice}' if advice else ''), file=sys.stderr)
    return 130


class _Options(argparse.Action):
    """mmengine's ``DictAction``, imported only if it is needed: that takes seconds."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest, nargs='+')(parser, *arguments)
        except ValueError:
            parser.error(f'{self.option_strings[0]} takes key=value')


def add_config(
    parser: argparse.ArgumentParser,
    what: str = 'with `smoothing`',
    *,
    checkpoint: bool = True,
    optional: bool = False,
) -> None:
    """Adds the config of OpenMMLab that a command is about, and the checkpoint of its model."""
    nargs = '?' if optional else None
    parser.add_argument('config', nargs=nargs, help=f'path of an mmengine config {what}'.rstrip())
    if checkpoint:
        parser.add_argument('checkpoint', nargs=nargs, help='checkpoint file')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=_Options, help='key=value overrides (none)'
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a run of a model takes beside its config."""
    parser.add_argument('--work-dir', help='where logs and results of a config go (work_dirs/NAME)')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
        help='what has started several processes (none)',
    )  # fmt: skip
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_limit(parser: argparse.ArgumentParser, which: str = 'evenly spaced') -> None:
    """Adds ``--limit``."""
    parser.add_argument(
        '--limit', type=at_least(1), metavar='N', help=f'take at most so many inputs, {which} (all)'
    )


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that takes an integer of at least so much."""

    def read(text: str) -> int:
        try:
            if (number := int(text)) >= least:
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f'a number of at least {least}, got {text!r}')

    return read


def add_import(parser: argparse.ArgumentParser) -> None:
    """Adds ``--import``."""
    parser.add_argument(
        '--import',
        nargs='+',
        default=[],
        dest='modules',
        metavar='MODULE',
        help='modules to import first, which register perturbations or procedures of your own '
        '(none)',
    )


def import_modules(args: argparse.Namespace) -> None:
    """Imports the modules of ``--import``, also from the current folder."""
    if args.modules:
        sys.path.insert(0, '')
    for module in args.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f'--import {module}: {error}') from error


def load_config(
    path: str, overrides: dict[str, Any] | None = None, needed: Sequence[str] = ()
) -> Any:
    """A config of mmengine with its overrides.

    Raises:
        UsageError: If it cannot be read, or lacks a key that is needed.
    """
    from mmcert.compat import enable_mmcv_lite

    enable_mmcv_lite()
    from mmengine.config import Config

    if not Path(path).is_file():
        raise UsageError(f'there is no config {path}')
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(overrides or {})
    except Exception as error:
        # mmengine adds the whole sys.path.
        reason = str(error).split(', the current sys.path is')[0]
        raise UsageError(f'{path}: {type(error).__name__}: {reason}') from error
    if missing := [key for key in needed if cfg.get(key) is None]:
        raise UsageError(f'{path} has no {", ".join(missing)}')
    return cfg


def check_checkpoint(path: str, remedy: str = '') -> None:
    """Refuses a file that is not there or no checkpoint, before model and data are built."""
    if '://' in path:
        return
    # As mmengine reads it.
    path = str(Path(path).expanduser())
    if Path(path).is_dir():
        raise UsageError(f'{path} is a folder, not a checkpoint{remedy}')
    if not Path(path).is_file():
        raise UsageError(f'there is no checkpoint {path}{remedy}')
    # torch.save writes zip files, and wrote pickles before.
    if not zipfile.is_zipfile(path) and Path(path).read_bytes()[:1] != b'\x80':
        raise UsageError(f'{path} is not a checkpoint{remedy}')


def check_start(cfg: Any) -> None:
    """Refuses weights that a training is to start from and that are not there."""
    if start := cfg.get('load_from'):
        check_checkpoint(
            start,
            '; load_from names it: train its config first, or start afresh with '
            '--cfg-options load_from=None',
        )


def check_out(path: str | Path, option: str = '--out') -> None:
    """Refuses a folder for results that cannot be written, before there are any."""
    from mmcert.files import require_writable

    try:
        require_writable(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f'{option} {path} cannot be written: {reason}') from error


def check_out_file(path: str | Path, option: str = '--out') -> None:
    """Refuses a file for results that cannot be written, before there are any."""
    if Path(path).is_dir():
        raise UsageError(f'{option} takes a file, and {path} is a folder')
    check_out(Path(path).parent, option)


TO_TEST = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')
TO_TRAIN = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
TO_VALIDATE = ('val_dataloader', 'val_cfg', 'val_evaluator')
"""What a runner needs of a config."""

STARTED_BY = {
    'pytorch': ('torchrun', 'RANK'),
    'slurm': ('srun', 'SLURM_PROCID'),
    'mpi': ('mpirun', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
"""What starts the processes of a launcher, and a variable that it sets in each of them."""


def load_run_config(
    args: argparse.Namespace, needed: Sequence[str], folder: str = 'work_dirs'
) -> Any:
    """The config of a run, with its launcher, and its work folder if the command has one.

    Args:
        args (argparse.Namespace): The command line.
        needed (Sequence[str]): Keys that the config must have.
        folder (str): Where the work folder is by default, under the name of the config.

    Raises:
        UsageError: If the config cannot be read or lacks a key, the work folder cannot be written,
            or nothing has started the processes.
    """
    cfg = load_config(args.config, args.cfg_options, needed)
    if 'work_dir' in args:
        named = f'{folder}/{Path(args.config).stem}'
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or named
        check_out(cfg.work_dir, '--work-dir')
    cfg.launcher = getattr(args, 'launcher', 'none')
    if cfg.launcher in STARTED_BY:
        program, variable = STARTED_BY[cfg.launcher]
        if variable not in os.environ:
            raise UsageError(
                f'--launcher {cfg.launcher} is for processes that {program} has started, and it '
                f'has not: {variable} is not set'
            )
    os.environ.setdefault('LOCAL_RANK', str(getattr(args, 'local_rank', 0)))
    if cfg.get('default_scope') == 'mmdet3d':
        from mmcert.pointops import install_cpu_point_ops

        install_cpu_point_ops()
    return cfg


def network_parser(description: str | None, model: str, folder: str) -> argparse.ArgumentParser:
    """The command line of a tool that trains a small network and reports on held-out images.

    Args:
        description (str): The tool's docstring.
        model (str): Name of the class of the config's model.
        folder (str): Where its configs are in ``configs``, and its results in ``work_dirs``.
    """
    parser = tool_parser(description)
    add_config(parser, f'whose model is a {model}', checkpoint=False)
    parser.add_argument(
        '--work-dir',
        help=f'where logs, checkpoints and results go (default: work_dirs/{folder}/NAME, with the '
        "config's name)",
    )
    parser.add_argument('--resume', action='store_true', help='continue from the work folder')
    parser.add_argument(
        '--pictures', type=at_least(0), default=2, help='held-out images to draw (2)'
    )
    add_cfg_options(parser)
    return parser
