"""Point operators on the CPU for the stock point-cloud models of mmdetection3d."""

from mmcert.pointops.install import install_cpu_point_ops, needs_cuda
from mmcert.pointops.kernels import (
    assign_score_withk,
    assign_score_withk_grad,
    ball_query,
    furthest_point_sample,
    furthest_point_sample_with_dist,
    gather_points,
    gather_points_grad,
    group_points,
    group_points_grad,
    knn,
    three_interpolate,
    three_interpolate_grad,
    three_nn,
)

__all__ = [
    'assign_score_withk',
    'assign_score_withk_grad',
    'ball_query',
    'furthest_point_sample',
    'furthest_point_sample_with_dist',
    'gather_points',
    'gather_points_grad',
    'group_points',
    'group_points_grad',
    'install_cpu_point_ops',
    'knn',
    'needs_cuda',
    'three_interpolate',
    'three_interpolate_grad',
    'three_nn',
]
