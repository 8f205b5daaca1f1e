"""Publishes a trained model: bare weights with their hash in the name, metafile entry, model card.

Writes OUT-HASH.pth without optimiser and training state, OUT-HASH.yml with an entry for a
metafile, OUT-HASH.md with the certified results, and OUT-HASH.py, the config in one file.
"""

from __future__ import annotations

import argparse

from mmcert.cli import (
    add_cfg_options,
    check_checkpoint,
    check_out_file,
    command,
    load_config,
    tool_parser,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint as training left it')
    parser.add_argument('out', help='FOLDER/NAME.pth; the hash is added to the name')
    parser.add_argument('--config', required=True, help='config of the model')
    parser.add_argument(
        '--summary',
        nargs='+',
        default=[],
        metavar='JSON',
        help='certified/summary.json of runs that certified this checkpoint (none)',
    )
    parser.add_argument('--training-data', help="(default: the config's data set)")
    parser.add_argument('--license', default='apache-2.0', help='(default: apache-2.0)')
    parser.add_argument('--url', default='', help='where on the web the weights will lie (none)')
    parser.add_argument('--hub', metavar='OWNER/NAME', help='upload to the Hugging Face Hub (none)')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Publishes."""
    args = parse_args()
    check_checkpoint(args.checkpoint)
    check_out_file(args.out, 'the checkpoint')
    cfg = load_config(args.config, args.cfg_options, ['model'])
    from mmcert.engine.publishing import publish_model

    files = publish_model(
        cfg,
        args.config,
        args.checkpoint,
        args.out,
        summaries=args.summary,
        training_data=args.training_data,
        license=args.license,
        url=args.url,
        hub=args.hub,
    )
    for file in files.values():
        print(f'wrote {file}')
    if args.hub:
        print(f'uploaded to https://huggingface.co/{args.hub}')
    return 0
