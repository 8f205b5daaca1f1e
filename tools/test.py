"""Tests a model from a config; with ``smoothing=dict(...)`` in it, certifies every image.

The stock tools do the same for a config with
``default_hooks = dict(smoothing=dict(type='mmcert.SmoothingHook'))``. This one adds the hook by
itself and also runs on mmcv-lite.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmcert.compat import distributed_cpu, enable_mmcv_lite
from mmcert.pointops import install_cpu_point_ops

enable_mmcv_lite()

from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.runner import Runner  # noqa: E402


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='path of an mmengine config')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where logs and results go')
    parser.add_argument('--show-dir', help='draw pictures of certified images into this folder')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value overrides')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args(argv)


def main() -> int:
    """Tests, and prints and stores the results."""
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
    cfg.load_from = args.checkpoint
    if cfg.get('default_scope') == 'mmdet3d':
        install_cpu_point_ops()
    if cfg.get('smoothing') is not None:
        cfg.setdefault('default_hooks', {})
        cfg.default_hooks.setdefault('smoothing', dict(type='mmcert.SmoothingHook'))
        if args.show_dir:
            cfg.smoothing.show_dir = args.show_dir
            cfg.smoothing.draw_every = cfg.smoothing.get('draw_every') or 1
    elif args.show_dir:
        print(
            'error: --show-dir draws certificates, and the config has no `smoothing`; add for '
            'example --cfg-options smoothing.sigma=0.25',
            file=sys.stderr,
        )
        return 2
    try:
        with distributed_cpu(cfg):
            Runner.from_cfg(cfg).test()
    except KeyboardInterrupt:
        kept = cfg.get('smoothing') is not None and cfg.smoothing.get('votes_dir', '') is not None
        advice = '; the same command continues where this one stopped'
        print(f'\ninterrupted{advice if kept else ""}', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
