"""Puts the CPU kernels under mmcv's point operators, and finds what else needs CUDA."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mmcert.pointops import kernels

CUDA_PACKAGES = ('spconv', 'torchsparse', 'MinkowskiEngine', 'mmcv.ops.sparse_', 'cumm')
"""Packages (or modules) whose layers compute on CUDA only."""
CUDA_CLASSES = frozenset({'DynamicScatter', 'RoIAwarePool3d', 'RoIPointPool3d'})
"""Further layers of that kind: scattering to voxels, and pooling in boxes."""
CONTAINERS = frozenset({'SparseModule', 'SparseSequential'})
"""Containers of sparse layers, which compute nothing themselves."""


def install_cpu_point_ops() -> None:
    """Lets mmcv's point operators, which have CUDA kernels only, run on CPU tensors.

    Tensors on other devices are treated as before. Replaced are the ``forward`` and ``backward`` of
    mmcv's autograd functions, which ``Function.apply`` looks up at each call, so names bound at
    import (``furthest_point_sample`` in mmdet3d) are covered, whenever that was. Works with mmcv
    and, after ``mmcert.compat.enable_mmcv_lite()``, with mmcv-lite. Further calls do nothing.
    Stacked inputs (clouds of different sizes in one tensor) still need CUDA.
    """
    fps = 'furthest_point_sample'
    for path, forward, backward in (
        (f'{fps}.FurthestPointSampling', _indices(fps), None),
        (f'{fps}.FurthestPointSamplingWithDist', _indices(f'{fps}_with_dist'), None),
        ('ball_query.BallQuery', _indices('ball_query'), None),
        ('knn.KNN', _indices('knn'), None),
        ('three_nn.ThreeNN', _indices('three_nn'), None),
        ('group_points.GroupingOperation', _features('group_points'), _features_grad),
        ('gather_points.GatherPoints', _features('gather_points'), _features_grad),
        ('three_interpolate.ThreeInterpolate', _features('three_interpolate'), _features_grad),
        ('assign_score_withk.AssignScoreWithK', _assign, _assign_grad),
    ):
        module, name = path.split('.')
        function = getattr(importlib.import_module(f'mmcv.ops.{module}'), name)
        if not hasattr(function.forward, 'mmcv_original'):
            function.forward = staticmethod(_dispatch_forward(forward, function.forward))
            if backward is not None:
                function.backward = staticmethod(_dispatch_backward(backward, function.backward))


def needs_cuda(model: nn.Module) -> list[str]:
    """The children of a model that compute on CUDA only, whatever operators are installed.

    These are sparse convolutions (mmcv's, spconv's, torchsparse's, MinkowskiEngine's), scattering
    of points to voxels, and MinkUNet's voxelization, which asks for CUDA by name. ``model`` comes
    with its data preprocessor if it has one.

    Returns:
        list[str]: Names of children, with the reason in parentheses, such as
        ``'backbone (SparseConv3d, SubMConv3d)'``; empty if all of the model can run on the CPU.

    >>> needs_cuda(nn.Sequential(nn.Linear(3, 2)))
    []
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


def _dispatch_forward(on_cpu: Callable[..., Any], original: Callable[..., Any]) -> Callable:
    """Calls ``on_cpu`` where all tensors are on the CPU and not stacked, else mmcv's own."""

    @functools.wraps(original)
    def forward(ctx: Any, *args: Any) -> Any:
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        # Only operators on stacked inputs take more than 5 arguments.
        stacked = len(args) > 5 or any(t.dim() == 1 for t in tensors)
        if stacked or any(t.device.type != 'cpu' for t in tensors):
            return original(ctx, *args)
        ctx.mmcert_cpu = True
        return on_cpu(ctx, *args)

    forward.mmcv_original = original  # type: ignore[attr-defined]
    return forward


def _dispatch_backward(on_cpu: Callable[..., Any], original: Callable[..., Any]) -> Callable:
    """Goes the way that the forward pass went."""

    @functools.wraps(original)
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return (on_cpu if hasattr(ctx, 'mmcert_cpu') else original)(ctx, grad)

    return backward


def _indices(kernel: str) -> Callable[..., Any]:
    """The forward pass of a kernel that returns indices, or distances and indices."""

    def forward(ctx: Any, *args: Any) -> Any:
        result = getattr(kernels, kernel)(*args)
        ctx.mark_non_differentiable(result[-1] if isinstance(result, tuple) else result)
        return result

    return forward


def _features(kernel: str) -> Callable[..., torch.Tensor]:
    """The forward pass of a kernel on features, indices and possibly weights."""

    def forward(ctx: Any, features: torch.Tensor, *args: Any) -> torch.Tensor:
        tensors = [value for value in args if value is not None]
        ctx.save_for_backward(*tensors)
        ctx.number, ctx.given = features.shape[2], len(args)
        return getattr(kernels, kernel)(features, *tensors)

    return forward


def _features_grad(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The gradient in the features; mmcv gives none in the weights."""
    indices, *weight = ctx.saved_tensors
    if weight:
        grad = grad[..., None] * weight[0][:, None]
    elif indices.dim() == 2:
        grad, indices = grad[..., None], indices[..., None]
    return (kernels.group_points_grad(grad, indices, ctx.number), *[None] * ctx.given)


def _assign(ctx: Any, *args: Any) -> torch.Tensor:
    ctx.save_for_backward(*args[:4])
    ctx.given = len(args)
    return kernels.assign_score_withk(*args[:4])


def _assign_grad(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    scores, points, centers, index = ctx.saved_tensors
    grads = kernels.assign_score_withk_grad(grad, scores, points, centers, index)
    return (*grads, *[None] * (ctx.given - 3))
