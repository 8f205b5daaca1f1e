"""Converts a published checkpoint into one of mmsegmentation or mmdetection3d.

Takes the HRNetV2 (Cityscapes, Pascal Context) and the PointNet++ (ShapeNetPart) of SegCertify's
authors. Every weight of the config's model must be filled; else nothing is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmcert.cli import (
    add_cfg_options,
    add_config,
    check_checkpoint,
    check_out_file,
    command,
    load_config,
    tool_parser,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    add_config(parser, 'with the same architecture')
    parser.add_argument('out', help='checkpoint to write')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Converts."""
    args = parse_args()
    check_checkpoint(args.checkpoint)
    check_out_file(args.out, 'the checkpoint')
    cfg = load_config(args.config, args.cfg_options, ['model'])
    import torch

    from mmcert.engine.base_model import build_model
    from mmcert.engine.weights import read_checkpoint
    from mmcert.files import atomic_writer
    from mmcert.zoo.conversion import convert

    model = build_model(cfg).state_dict()
    weights = convert(read_checkpoint(args.checkpoint), model)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(args.out) as file:
        torch.save({'meta': {}, 'state_dict': weights}, file)
    print(f'wrote {args.out}: {len(weights)} tensors, all of the model')
    return 0
