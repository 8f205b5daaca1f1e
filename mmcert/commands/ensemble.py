"""Makes one model of several: the mean of their logits (mmcert.SegmentorEnsemble).

Writes a checkpoint and a config beside it, which every tool takes as it takes those of any other
model. Data and ``smoothing`` are those of the first member's config.
"""

from __future__ import annotations

import argparse

from mmcert.cli import (
    UsageError,
    check_checkpoint,
    check_out_file,
    command,
    load_config,
    tool_parser,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    parser.add_argument('out', help='checkpoint to write, NAME.pth; the config is NAME.py')
    parser.add_argument(
        '--member',
        nargs='+',
        action='append',
        required=True,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a config and one checkpoint or more of it, such as those of other seeds; may be '
        'given several times',
    )
    return parser.parse_args(argv)


@command
def main() -> int:
    """Writes the ensemble."""
    args = parse_args()
    check_out_file(args.out, 'the checkpoint')
    members = []
    for config, *checkpoints in args.member:
        if not checkpoints:
            raise UsageError(f'--member {config}: a checkpoint must follow the config')
        for checkpoint in checkpoints:
            check_checkpoint(checkpoint)
            cfg = load_config(config, needed=['model', 'test_dataloader'])
            members.append((cfg, checkpoint))
    from mmcert.engine.ensemble import write_ensemble

    config = write_ensemble(args.out, members)
    print(f'wrote {args.out}, {len(members)} members, and {config}')
    return 0
