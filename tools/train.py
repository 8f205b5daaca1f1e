"""Trains a model from a config, with mmcert's noise transforms at hand.

Any OpenMMLab training tool does the same with the same config; this one also runs on mmcv-lite.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmcert.compat import (
    distributed_cpu,
    enable_mmcv_lite,
    resume_from_work_dir,
    reuse_freed_memory,
)
from mmcert.pointops import install_cpu_point_ops

enable_mmcv_lite()

import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.runner import Runner  # noqa: E402


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='path of an mmengine config')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument('--resume', action='store_true', help='continue from the work folder')
    parser.add_argument('--amp', action='store_true', help='mixed precision (CUDA)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value overrides')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args(argv)


def main() -> int:
    """Trains and leaves checkpoints and logs in the work folder."""
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume:
        resume_from_work_dir(cfg)
    if cfg.get('default_scope') == 'mmdet3d':
        install_cpu_point_ops()
    if not torch.cuda.is_available():
        reuse_freed_memory()
    with distributed_cpu(cfg):
        Runner.from_cfg(cfg).train()
    return 0


if __name__ == '__main__':
    sys.exit(main())
