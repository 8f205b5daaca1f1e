"""Tests a model from a config; with ``smoothing=dict(...)`` in it, certifies every image.

The stock tools do the same for a config with
``default_hooks = dict(smoothing=dict(type='mmcert.SmoothingHook'))``. This one adds the hook by
itself and also runs on mmcv-lite.
"""

from __future__ import annotations

import argparse

from mmcert.cli import (
    TO_TEST,
    UsageError,
    add_config,
    add_run_arguments,
    check_checkpoint,
    command,
    interrupted,
    load_run_config,
    tool_parser,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = tool_parser(__doc__)
    add_config(parser, '')
    parser.add_argument(
        '--show-dir', help='draw pictures of certified images into this folder (none)'
    )
    add_run_arguments(parser)
    return parser.parse_args(argv)


@command
def main() -> int:
    """Tests, and prints and stores the results."""
    return run()


def run(*, certify: bool = False) -> int:
    """Tests, as the command line says; to ``certify``, the config must have `smoothing`."""
    args = parse_args()
    check_checkpoint(args.checkpoint)
    cfg = load_run_config(args, TO_TEST)
    cfg.load_from = args.checkpoint
    smoothing = cfg.get('smoothing')
    if smoothing is not None:
        cfg.setdefault('default_hooks', {})
        cfg.default_hooks.setdefault('smoothing', dict(type='mmcert.SmoothingHook'))
        if args.show_dir:
            smoothing.show_dir = args.show_dir
            smoothing.draw_every = smoothing.get('draw_every') or 1
    elif certify:
        raise UsageError(
            f'{args.config} has no `smoothing`, so there is nothing to certify; add for example '
            '--cfg-options smoothing.sigma=0.25, or test the model as it is: mmcert test'
        )
    elif args.show_dir:
        raise UsageError(
            '--show-dir draws certificates, and the config has no `smoothing`; add for example '
            '--cfg-options smoothing.sigma=0.25'
        )
    from mmcert.engine import check_config

    check_config(cfg)
    from mmengine.runner import Runner

    from mmcert.compat import distributed_cpu

    try:
        with distributed_cpu(cfg):
            runner = Runner.from_cfg(cfg)
            if smoothing is None:
                runner.logger.warning('no `smoothing` in the config: nothing is certified')
            runner.test()
    except KeyboardInterrupt:
        if smoothing is None or smoothing.get('votes_dir', '') is None:
            return interrupted('')
        return interrupted()
    return 0
