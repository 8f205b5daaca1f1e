"""Times the point operators on the CPU, alone and within stock PointNet++ models.

Both are of mmdetection3d, with random weights: what they cost does not depend on the weights. Each
operator is timed on 16 clouds of 2048 points in the size that a model's first layer asks for, and
within each model by its share of the whole forward pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from study import Results, machine, on_machine, percent, seconds_of, table, write_results

CLOUDS, POINTS = 16, 2048
OPERATORS = (
    'furthest_point_sample',
    'gather_points',
    'ball_query',
    'group_points',
    'three_nn',
    'three_interpolate',
)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=['pointnet2_ssg', 'pointnet2_msg'])
    parser.add_argument('--repetitions', type=int, default=5)
    parser.add_argument('--threads', type=int, help='by default, as many as torch takes')
    return parser.parse_args()


def main() -> int:
    """Times and writes."""
    args = parse_args()

    import torch

    from mmcert.compat import enable_mmcv_lite, reuse_freed_memory
    from mmcert.pointops import install_cpu_point_ops

    torch.set_num_threads(args.threads or torch.get_num_threads())
    enable_mmcv_lite()
    reuse_freed_memory()
    install_cpu_point_ops()
    alone = {
        name: min(seconds_of(task, args.repetitions)) for name, task in operator_tasks().items()
    }
    rows = [time_model(name, args.repetitions) for name in args.models]
    for row in rows:
        print(f'{row["model"]}: {row["seconds"]:.3f} s')
        for name, share in row['shares'].items():
            print(f'  {name:24} {100 * share:5.1f} % of the forward pass')
    # As parts of the first model's forward pass, so that machines can be compared.
    ratios = {name: seconds / rows[0]['seconds'] for name, seconds in alone.items()}
    for name, seconds in alone.items():
        print(f'{name:24} {1000 * seconds:8.1f} ms, {ratios[name]:.3f} of {rows[0]["model"]}')
    content = {
        'clouds': CLOUDS,
        'points': POINTS,
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'machine': machine(),
        'models': rows,
        'operators': [
            {'operator': name, 'ms': 1000 * seconds, 'ratio_to_first_model': ratios[name]}
            for name, seconds in alone.items()
        ],
    }
    write_results('point_ops', content)
    return 0


def operator_tasks() -> dict[str, Callable[[], Any]]:
    """Each operator on its own."""
    import torch

    from mmcert.pointops import kernels

    torch.manual_seed(0)
    xyz = torch.rand(CLOUDS, POINTS, 3)
    centres = xyz[:, : POINTS // 2].contiguous()
    features = torch.randn(CLOUDS, 64, POINTS)
    index = kernels.ball_query(0.0, 0.1, 32, xyz, centres)
    _, three = kernels.three_nn(xyz, centres)
    weight = torch.rand(CLOUDS, POINTS, 3)
    return {
        'furthest_point_sample': lambda: kernels.furthest_point_sample(xyz, POINTS // 2),
        'gather_points': lambda: kernels.gather_points(features, index[..., 0]),
        'ball_query': lambda: kernels.ball_query(0.0, 0.1, 32, xyz, centres),
        'group_points': lambda: kernels.group_points(features, index),
        'group_points_grad': lambda: kernels.group_points_grad(
            torch.ones(1).expand(CLOUDS, 64, *index.shape[1:]), index, POINTS
        ),
        'three_nn': lambda: kernels.three_nn(xyz, centres),
        'three_interpolate': lambda: kernels.three_interpolate(features, three, weight),
        'knn (k = 32)': lambda: kernels.knn(32, xyz, centres),
    }


def time_model(name: str, repetitions: int) -> dict[str, Any]:
    """The fastest forward pass of a model, and how much of it each operator takes."""
    import torch

    model, channels = built(name)
    points = torch.rand(CLOUDS, POINTS, channels, generator=torch.Generator().manual_seed(1))
    best: tuple[float, dict[str, float]] = (float('inf'), {})
    for _ in range(repetitions + 1):
        spent, restore = watched()
        started = time.perf_counter()
        with torch.no_grad():
            model.encode_decode(points, [{}] * CLOUDS)
        best = min(best, (time.perf_counter() - started, spent), key=lambda run: run[0])
        restore()
    seconds, spent = best
    shares = {operator: spent[operator] / seconds for operator in OPERATORS}
    shares['all operators'] = sum(shares.values())
    return {'model': name, 'seconds': seconds, 'shares': shares}


def built(name: str) -> tuple[Any, int]:
    """A stock model of mmdetection3d, and its input channels."""
    import mmdet3d
    import torch
    from mmdet3d.registry import MODELS
    from mmdet3d.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    configs = Path(mmdet3d.__file__).parent / '.mim' / 'configs' / '_base_' / 'models'
    cfg = Config.fromfile(configs / f'{name}.py').model
    cfg.decode_head.num_classes = 13
    torch.manual_seed(0)
    return MODELS.build(cfg).eval(), cfg.backbone.in_channels


def watched() -> tuple[dict[str, float], Callable[[], None]]:
    """Has the operators write down their seconds, until the returned function is called."""
    from mmcert.pointops import kernels

    spent = dict.fromkeys(OPERATORS, 0.0)
    originals = {name: getattr(kernels, name) for name in OPERATORS}

    def timed(name: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started = time.perf_counter()
            result = originals[name](*args)
            spent[name] += time.perf_counter() - started
            return result

        return run

    def restore() -> None:
        for name, original in originals.items():
            setattr(kernels, name, original)

    for name in OPERATORS:
        setattr(kernels, name, timed(name))
    return spent, restore


def render(results: Results) -> list[str]:
    """The operators' shares of two models' forward passes."""
    names = list(results['models'][0]['shares'])
    rows = [('model', 'forward pass', *names)]
    for row in results['models']:
        shares = (percent(row['shares'][name]) for name in names)
        rows.append((row['model'], f'{row["seconds"]:.2f} s', *shares))
    return [
        *table(rows),
        '',
        f"{results['clouds']} clouds of {results['points']} points, mmdetection3d's models with "
        f'random weights, {results["threads"]} thread(s), {on_machine(results)}: '
        '`benchmarks/point_ops.py`.',
    ]


TABLES = {'point_ops': render}

if __name__ == '__main__':
    sys.exit(main())
