"""Trains a model from a config, with mmcert's noise transforms at hand.

Any OpenMMLab training tool does the same with the same config; this one also runs on mmcv-lite.
"""

from __future__ import annotations

import argparse

from mmcert.cli import (
    TO_TRAIN,
    UsageError,
    add_config,
    add_run_arguments,
    check_start,
    command,
    interrupted,
    load_run_config,
    tool_parser,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    add_config(parser, '', checkpoint=False)
    parser.add_argument('--resume', action='store_true', help='continue from the work folder')
    parser.add_argument('--amp', action='store_true', help='mixed precision (CUDA)')
    add_run_arguments(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Trains and leaves checkpoints and logs in the work folder."""
    args = parse_args()
    cfg = load_run_config(args, TO_TRAIN)
    from mmcert.compat import distributed_cpu, resume_from_work_dir, reuse_freed_memory

    if args.resume:
        resume_from_work_dir(cfg)
    check_start(cfg)
    import torch
    from mmengine.device import get_device
    from mmengine.runner import Runner

    from mmcert.engine import check_config

    check_config(cfg)
    if args.amp:
        if get_device() == 'cpu':
            raise UsageError('--amp is for a CUDA device, and there is none')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if not torch.cuda.is_available():
        reuse_freed_memory()
    try:
        with distributed_cpu(cfg):
            Runner.from_cfg(cfg).train()
    except KeyboardInterrupt:
        return interrupted('the same command with --resume continues')
    return 0
