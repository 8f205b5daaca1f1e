"""Puts the CPU kernels under mmcv's point operators, and says what else needs CUDA."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mmcert.pointops import kernels

# Whose modules compute on CUDA only, by the package (or module) of their class.
CUDA_PACKAGES = ('spconv', 'torchsparse', 'MinkowskiEngine', 'mmcv.ops.sparse_', 'cumm')
# The same, by the name of their class: scattering to voxels, and pooling in boxes.
CUDA_CLASSES = frozenset({'DynamicScatter', 'RoIAwarePool3d', 'RoIPointPool3d'})
# Containers of sparse layers compute nothing themselves.
CONTAINERS = frozenset({'SparseModule', 'SparseSequential'})


def install_cpu_point_ops() -> None:
    """Lets mmcv's point operators run on CPU tensors; those on other devices are as before.

    mmcv has them for CUDA only. What is replaced are the ``forward`` and ``backward`` of its
    autograd functions, which ``Function.apply`` looks up when it is called: names bound at import,
    such as ``furthest_point_sample`` in mmdet3d, are covered whenever they were imported. Works
    with mmcv and, after ``mmcert.compat.enable_mmcv_lite()``, with mmcv-lite. Further calls do
    nothing. Stacked inputs (clouds of different sizes in one tensor) still need CUDA.
    """
    for path, forward, backward in (
        ('furthest_point_sample.FurthestPointSampling', _furthest, None),
        ('furthest_point_sample.FurthestPointSamplingWithDist', _furthest_with_dist, None),
        ('ball_query.BallQuery', _ball_query, None),
        ('group_points.GroupingOperation', _group, _group_grad),
        ('gather_points.GatherPoints', _gather, _gather_grad),
        ('three_nn.ThreeNN', _three_nn, None),
        ('three_interpolate.ThreeInterpolate', _interpolate, _interpolate_grad),
        ('knn.KNN', _knn, None),
        ('assign_score_withk.AssignScoreWithK', _assign, _assign_grad),
    ):
        module, name = path.split('.')
        function = getattr(importlib.import_module(f'mmcv.ops.{module}'), name)
        if not hasattr(function.forward, 'mmcv_original'):
            function.forward = staticmethod(_dispatch_forward(forward, function.forward))
            if backward is not None:
                function.backward = staticmethod(_dispatch_backward(backward, function.backward))


def needs_cuda(model: nn.Module) -> list[str]:
    """The parts of a model that compute on CUDA only, whatever point operators are installed.

    These are sparse convolutions (mmcv's, spconv's, torchsparse's, MinkowskiEngine's), the
    scattering of points to voxels, and MinkUNet's voxelization, which asks for CUDA by name.

    Args:
        model (nn.Module): Any model, with its data preprocessor if it has one.

    Returns:
        list[str]: Children of the model and in parentheses why, such as
        ``'backbone (SparseConv3d, SubMConv3d)'``; empty if all of it can run on the CPU.
    """
    found: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        kind = type(module)
        # A block that only inherits from a sparse class is named by the layers inside it.
        sparse = f'{kind.__module__}.'.startswith(CUDA_PACKAGES) and kind.__name__ not in CONTAINERS
        if sparse or kind.__name__ in CUDA_CLASSES:
            found.setdefault(name.split('.')[0], set()).add(kind.__name__)
        elif getattr(module, 'voxel', False) and getattr(module, 'voxel_type', '') == 'minkunet':
            found.setdefault(name.split('.')[0], set()).add('voxelization of type minkunet')
    return [f'{part or type(model).__name__} ({", ".join(sorted(found[part]))})' for part in found]


def _dispatch_forward(
    on_cpu: Callable[..., Any], original: Callable[..., Any]
) -> Callable[..., Any]:
    """Calls ``on_cpu`` where all tensors are on the CPU and not stacked, else mmcv's own."""
    # The operators take fewer arguments than this unless their inputs are stacked.
    limit = 5

    @functools.wraps(original)
    def forward(ctx: Any, *args: Any) -> Any:
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        stacked = any(t.dim() == 1 for t in tensors) or len(args) > limit
        if stacked or any(t.device.type != 'cpu' for t in tensors):
            return original(ctx, *args)
        ctx.mmcert_cpu = True
        return on_cpu(ctx, *args)

    forward.mmcv_original = original  # type: ignore[attr-defined]
    return forward


def _dispatch_backward(
    on_cpu: Callable[..., Any], original: Callable[..., Any]
) -> Callable[..., Any]:
    """Goes the way that the forward pass went."""

    @functools.wraps(original)
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return (on_cpu if hasattr(ctx, 'mmcert_cpu') else original)(ctx, grad)

    return backward


def _indices(ctx: Any, indices: torch.Tensor) -> torch.Tensor:
    ctx.mark_non_differentiable(indices)
    return indices


def _furthest(ctx: Any, points_xyz: torch.Tensor, num_points: int) -> torch.Tensor:
    return _indices(ctx, kernels.furthest_point_sample(points_xyz, num_points))


def _furthest_with_dist(ctx: Any, points_dist: torch.Tensor, num_points: int) -> torch.Tensor:
    return _indices(ctx, kernels.furthest_point_sample_with_dist(points_dist, num_points))


def _ball_query(ctx: Any, *args: Any) -> torch.Tensor:
    return _indices(ctx, kernels.ball_query(*args[:5]))


def _knn(ctx: Any, *args: Any) -> torch.Tensor:
    return _indices(ctx, kernels.knn(*args))


def _three_nn(
    ctx: Any, target: torch.Tensor, source: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    distance, indices = kernels.three_nn(target, source)
    return distance, _indices(ctx, indices)


def _group(ctx: Any, features: torch.Tensor, indices: torch.Tensor, *_: None) -> torch.Tensor:
    ctx.save_for_backward(indices)
    ctx.number = features.shape[2]
    return kernels.group_points(features, indices)


def _group_grad(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    (indices,) = ctx.saved_tensors
    return kernels.group_points_grad(grad, indices, ctx.number), None


def _gather(ctx: Any, features: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    ctx.save_for_backward(indices)
    ctx.number = features.shape[2]
    return kernels.gather_points(features, indices)


def _gather_grad(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    (indices,) = ctx.saved_tensors
    return kernels.gather_points_grad(grad, indices, ctx.number), None


def _interpolate(
    ctx: Any, features: torch.Tensor, indices: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    ctx.save_for_backward(indices, weight)
    ctx.number = features.shape[2]
    return kernels.three_interpolate(features, indices, weight)


def _interpolate_grad(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    indices, weight = ctx.saved_tensors
    return kernels.three_interpolate_grad(grad, indices, weight, ctx.number), None, None


def _assign(ctx: Any, *args: Any) -> torch.Tensor:
    ctx.save_for_backward(*args[:4])
    ctx.given = len(args)
    return kernels.assign_score_withk(*args[:4])


def _assign_grad(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    scores, points, centers, index = ctx.saved_tensors
    grads = kernels.assign_score_withk_grad(grad, scores, points, centers, index)
    return (*grads, *[None] * (ctx.given - 3))
