"""Trains a small model on drawn street scenes, certifies 12 of them, and writes a page of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmcert.cli import PACKAGE, UsageError, check_out, command, tool_parser

CONFIG = 'configs/street_scenes/segcertify-s0.25-n100_unet-tiny_street-scenes-128x192.py'
CHECKPOINT = 'iter_400.pth'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'),
        help='where model and results go (work_dirs/demo)',
    )  # fmt: skip
    return parser.parse_args(argv)


def config() -> Path:
    """The config of the demo, in the installed package or in a checkout."""
    found = [folder / CONFIG for folder in (Path(PACKAGE) / '.mim', Path(PACKAGE).parent)]
    for path in found:
        if path.is_file():
            return path
    raise UsageError(f'the config of the demo is not installed: {found[0]} is missing')


@command
def main() -> int:
    """Trains, certifies and answers."""
    args = parse_args()
    folder = args.work_dir
    check_out(folder, '--work-dir')
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f'{folder} is not empty: delete it, or give another --work-dir')
    try:
        import mmseg  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f'the demo needs OpenMMLab, and {error.name} is not installed: pip install '
            "'mmcert[mmseg]'"
        ) from error
    from mmcert.commands.main import run

    path = str(config())
    steps = [
        ('train', [path, '--work-dir', str(folder)]),
        ('test', [path, str(folder / CHECKPOINT), '--work-dir', str(folder)]),
    ]
    for name, arguments in steps:
        if status := run(name, arguments):
            return status
    results = folder / 'certified'
    votes = sorted(map(str, results.glob('votes-*')))
    tested = ['--tau', '0.6', '0.75', '0.85', '--procedure', 'holm', 'ordered_holm']
    status = run('recertify', [*votes, *tested, '--out', str(results)])
    return status or run('report', [str(results)])
