"""Prints what makes a shell complete ``mmcert``: eval "$(mmcert completion)" in its start file."""

from __future__ import annotations

import argparse

from mmcert.cli import UsageError, command, tool_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        'shell', nargs='?', choices=['bash', 'zsh', 'fish'], default='bash', help='(bash)'
    )
    return parser.parse_args(argv)


@command
def main() -> int:
    """Prints the code."""
    args = parse_args()
    try:
        import argcomplete
    except ModuleNotFoundError as error:
        raise UsageError('completion needs argcomplete: pip install argcomplete') from error
    print(argcomplete.shellcode(['mmcert'], shell=args.shell))
    return 0
