"""The command ``mmcert``: one word for each of the command lines."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from mmcert.cli import ToolParser, command
from mmcert.version import __version__

COMMANDS = {
    'train': 'train a model of a config',
    'test': 'test a model of a config, and certify where it has `smoothing`',
    'certify': 'certify the images of a folder, or the test data of a config',
    'recertify': 'answer for other settings from stored votes',
    'plan': 'say what settings can certify at best, and how long it takes',
    'attack': 'attack a model and its smoothed version, beside the certificates',
    'corruptions': 'hold certificates beside common corruptions',
    'report': 'write one page of a run that opens in a browser',
    'redraw': 'take some draws of stored votes again through the model',
    'merge': 'check what shards have left in one folder, and write the whole',
    'audit': "hold every procedure's error rate against alpha",
    'demo': 'train, certify and draw a small model on drawn street scenes',
    'ensemble': 'make one model of several',
    'train_denoiser': 'train a denoiser, maybe through a frozen segmentor',
    'train_surrogate': 'train the surrogate of a transformation',
    'convert_checkpoint': "convert the weights that SegCertify's authors publish",
    'publish_model': 'make bare weights, metafile entry and model card of a checkpoint',
    'export_fiftyone': 'write a run as images and masks, for FiftyOne',
    'completion': 'print what makes a shell complete these commands',
}
"""Each command, a module of this package, and what it does."""


def main() -> int:
    """Runs a command."""
    words = sys.argv[1:]
    if '_ARGCOMPLETE' in os.environ:
        return _complete()
    if words and words[0] in COMMANDS:
        return run(words[0], words[1:])
    return _top()


def run(name: str, arguments: list[str]) -> int:
    """Runs a command with arguments, as if it had been typed."""
    module = importlib.import_module(f'mmcert.commands.{name}')
    before = sys.argv
    sys.argv = [f'mmcert {name}', *arguments]
    try:
        return module.main()
    finally:
        sys.argv = before


@command
def _top() -> int:
    _parser().parse_args(sys.argv[1:])
    return 0


def _parser() -> ToolParser:
    described = '\n'.join(f'  {name:<20}{what}' for name, what in COMMANDS.items())
    parser = ToolParser(
        prog='mmcert',
        description='Certified robustness of segmentation models.\n\ncommands:\n' + described,
        epilog='mmcert COMMAND --help says what a command takes.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmcert {__version__}')
    parser.add_argument('command', choices=list(COMMANDS), metavar='COMMAND', help='one of these')
    return parser


def _complete() -> int:
    """Answers the shell: the name of a command, or what may follow in it."""
    line, point = os.environ.get('COMP_LINE', ''), int(os.environ.get('COMP_POINT', '0'))
    program, _, rest = line.partition(' ')
    name = rest.lstrip().partition(' ')[0]
    if name in COMMANDS and len(line) > line.index(name, len(program)) + len(name):
        # The command's own parser answers for what follows its name.
        shorter = f'{program} {rest.lstrip()[len(name) :].lstrip()}'
        os.environ['COMP_LINE'] = shorter
        os.environ['COMP_POINT'] = str(max(point - (len(line) - len(shorter)), 0))
        return run(name, [])
    _parser().parse_args()
    return 0


if __name__ == '__main__':
    sys.exit(main())
