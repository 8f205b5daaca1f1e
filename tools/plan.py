"""Says what a config's ``smoothing`` can certify at best, and how long it takes, before it is run.

Without a checkpoint: what each procedure can certify with the configured draws, and the smallest n
for a wanted tau. With one, a few passes are timed and the hours for the data set are told. Fails
where a run would be refused, or could certify nothing on any of the inputs that were looked at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from mmcert.compat import enable_mmcv_lite

enable_mmcv_lite()

from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from mmcert.engine.planner import (  # noqa: E402
    COMMON_TAUS,
    at_threshold,
    count_components,
    first_input,
    report,
    sampled_thresholds,
    time_draws,
)
from mmcert.engine.smoothing_config import SmoothingConfig, smoothing_of  # noqa: E402


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='path of an mmengine config with `smoothing`')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file, to time a few passes')
    parser.add_argument('--tau', type=float, nargs='+', default=list(COMMON_TAUS), help='wanted')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='instead of the data')
    parser.add_argument('--images', type=int, default=1, help='with --size: how many')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value overrides')
    return parser.parse_args(argv)


def main() -> int:
    """Prints the plan; fails where it would be refused."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    try:
        if cfg.get('smoothing') is None:
            raise ValueError('the config has no `smoothing`; add for example sigma=0.25 with '
                             '--cfg-options smoothing.sigma=0.25')  # fmt: skip
        if args.size and args.checkpoint:
            raise ValueError('give either a checkpoint to time on the data, or --size')
        timing, thresholds = None, ()
        if args.size:
            plan = SmoothingConfig.from_cfg(dict(cfg.smoothing)).plan()
        if args.size and plan.adapter.certifies_grid_points:
            raise ValueError("resolution='logits' needs the model: leave --size out")
        if args.size:
            height, width = args.size
            components, images = height * width, args.images
        else:
            with tempfile.TemporaryDirectory() as folder:
                cfg.work_dir, cfg.load_from = folder, args.checkpoint
                if cfg.get('visualizer'):
                    # mmengine keeps one of each name, with the folder that it began in.
                    cfg.visualizer.name = Path(folder).name
                cfg.log_level = 'WARNING'
                runner = Runner.from_cfg(cfg)
                plan = smoothing_of(runner).plan()
                first = first_input(runner, plan)
                components, images = count_components(runner, plan, first), first.inputs
                thresholds = sampled_thresholds(runner, plan)
                if args.checkpoint:
                    runner.load_or_resume()
                    timing = time_draws(runner, plan, first)
        print(report(plan, components, images, args.tau, timing, thresholds))
        easiest = at_threshold(plan, min(thresholds)) if thresholds else plan
        easiest.require_feasible(components)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
