"""Point operators on the CPU, in PyTorch and NumPy.

They compute what mmcv's CUDA kernels of the same names compute, for finite coordinates:

* A distance that decides something is a sum of squared differences, ``(dx*dx + dy*dy) + dz*dz`` in
  this order. The expanded form ``|a|^2 + |b|^2 - 2ab`` loses all digits where points are close.
  Every product and sum is rounded by itself, so every processor gets the same bits. CUDA's compiler
  fuses some: where two distances differ in the last bits only, the devices may decide differently.
* Among equal distances the lowest index wins, as in a scan from the first point to the last. CUDA
  does so in ``ball_query`` and ``three_nn``. Its ``furthest_point_sample`` compares in a tree of
  threads and its ``knn`` keeps a heap, so there the winner depends on the number of threads and the
  heap's history. Under noise only copies of a point have equal distances.
* Each cloud of a batch is treated alone. Neither the other clouds nor the batch size matter.

Indices are returned as int32, as mmcv's are. All functions take any floating type and compare
16-bit coordinates in float32. Gradients flow through the functions that carry features.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

BLOCK = 1 << 16  # elements of a block of distances: two such buffers stay in a core's cache
LARGEST = 1 << 19  # elements of the largest matrix of distances that is kept whole
STEP = 1 << 15  # elements of a step of sampling
ROWS = 128  # centres that share their candidates in a search
FEW = 16  # up to so many smallest elements are found faster one by one than all together
FAR = 1e10  # mmcv's kernels take this for the largest squared distance

Neighbourhood = tuple[int, slice, torch.Tensor, torch.Tensor, torch.Tensor]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Runs thousands of short operations on one thread. Distances may overflow without a word.

    Two idle cores were as fast as one. On busy cores, sharing each operation among threads took 10
    times as long, because each waits for the slowest.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with np.errstate(over='ignore', invalid='ignore'):
            yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def furthest_point_sample(points_xyz: torch.Tensor, num_points: int) -> torch.Tensor:
    """Samples points one by one, each the furthest from all that are sampled already.

    Of clouds (B, N, 3), N at least 1; returns indices (B, num_points). The first is point 0.
    Squared distances are capped at 1e10. Once every point or a copy of it is sampled, all distances
    are 0 and point 0 comes again. Some older versions of this operator pass over points near the
    origin; this one does not.

    >>> furthest_point_sample(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]]), 2)
    tensor([[0, 2]], dtype=torch.int32)
    """
    _check(points_xyz, 'points_xyz')
    batch, number, _ = points_xyz.shape
    xyz = _planes(points_xyz)
    clouds = max(1, STEP // max(number, 1))
    # Parts of equal size cost less than full parts and a small rest.
    parts = max(1, -(-batch // clouds))
    sampled = [_sample(part.contiguous(), num_points) for part in xyz.chunk(parts, dim=1)]
    return torch.cat(sampled, dim=0)


def _sample(xyz: torch.Tensor, num_points: int) -> torch.Tensor:
    """Samples in clouds whose coordinates come as one plane per axis, shape (3, B, N)."""
    _, batch, number = xyz.shape
    result = torch.zeros((num_points, batch), dtype=torch.int64)
    nearest = xyz.new_full((batch, number), FAR).numpy()
    step, centre = torch.empty_like(xyz), xyz.new_empty((3, batch, 1))
    # NumPy shares the memory. Its operations start faster, and it finds a maximum several times as
    # fast; PyTorch is faster where a number meets a row.
    planes, centres = xyz.view(3, -1).numpy(), centre.view(3, -1).numpy()
    squares = step.numpy()
    distance, y, z = squares
    cloud = np.arange(0, batch * number, number)
    for last, row in itertools.pairwise(result.numpy()):
        np.take(planes, last + cloud, axis=1, out=centres, mode='clip')
        torch.sub(xyz, centre, out=step)
        np.multiply(squares, squares, out=squares)
        np.add(distance, y, out=distance)
        np.add(distance, z, out=distance)
        np.minimum(nearest, distance, out=nearest)
        np.argmax(nearest, axis=1, out=row)
    return result.t().to(torch.int32).contiguous()


@_one_thread()
def furthest_point_sample_with_dist(points_dist: torch.Tensor, num_points: int) -> torch.Tensor:
    """``furthest_point_sample`` by distances (B, N, N), which need not be Euclidean."""
    distances = _comparable(points_dist).detach()
    batch, number, _ = distances.shape
    result = torch.zeros((batch, num_points), dtype=torch.int64)
    nearest = distances.new_full((batch, number), FAR)
    cloud = torch.arange(batch)
    for j in range(1, num_points):
        torch.minimum(nearest, distances[cloud, result[:, j - 1]], out=nearest)
        result[:, j] = nearest.max(dim=1).indices
    return result.to(torch.int32)


@_one_thread()
def ball_query(
    min_radius: float,
    max_radius: float,
    sample_num: int,
    xyz: torch.Tensor,
    center_xyz: torch.Tensor,
) -> torch.Tensor:
    """Finds the first points, by index, in a shell around each centre.

    Of points (B, N, 3) around centres (B, M, 3); returns indices (B, M, sample_num). A point counts
    where min_radius^2 <= d^2 < max_radius^2 or d = 0, with the radii squared in float32. Places
    left over repeat the first point, or are 0 where no point counts.

    Raises:
        ValueError: If the radii are not in order.
    """
    _check(xyz, 'xyz')
    _check(center_xyz, 'center_xyz')
    if not min_radius < max_radius:
        raise ValueError(f'min_radius {min_radius} must be less than max_radius {max_radius}')
    inner, outer = torch.tensor([min_radius, max_radius], dtype=torch.float32).square().tolist()
    points, centres = _planes(xyz), _planes(center_xyz)
    _, batch, number = points.shape
    asked = centres.shape[2]
    result = torch.zeros((batch, asked, sample_num), dtype=torch.int32)
    if number == 0 or asked == 0 or sample_num == 0:
        return result
    distances = _Distances(points.dtype)
    clouds = max(1, BLOCK // (asked * number))
    for first in range(0, batch, clouds):
        cloud, centre = points[:, first : first + clouds], centres[:, first : first + clouds]
        found = result[first : first + clouds].flatten(0, 1).numpy()
        if clouds > 1:
            distance = distances(centre[..., None], cloud[:, :, None]).view(-1, number)
            found[:], _ = _first_hits(distance.numpy(), inner, outer, sample_num)
            continue
        for rows, near in _candidates(cloud[:, 0], centre[:, 0], outer):
            if len(near):
                distance = distances(centre[:, 0, rows, None], cloud[:, 0, near][:, None])
                hits, some = _first_hits(distance.numpy(), inner, outer, sample_num)
                found[rows] = near[hits] * some
    return result


def knn(
    k: int, xyz: torch.Tensor, center_xyz: torch.Tensor | None = None, transposed: bool = False
) -> torch.Tensor:
    """Finds the k nearest points of each centre, nearest first.

    Of points (B, N, C) and centres (B, M, C), by default the points; (B, C, N) and (B, C, M) if
    ``transposed``. Returns indices (B, k, M). Places left over are 0: where there are fewer than k
    points, or points 1e5 away or further.

    Points may have any number of coordinates, and all of them count, as mmcv documents. Its CUDA
    kernel always takes 3. It misreads the features of DGCNN's later layers (``F-KNN``): it reads
    the first 3 B N numbers of the batch as the points, so neighbours in one cloud depend on others.

    Raises:
        ValueError: If k is not 1 to 99.
    """
    if not 0 < k < 100:
        raise ValueError(f'k must be 1 to 99, is {k}')
    center_xyz = xyz if center_xyz is None else center_xyz
    if transposed:
        xyz, center_xyz = xyz.transpose(1, 2), center_xyz.transpose(1, 2)
    distance, index = _nearest(center_xyz, xyz, k)
    index.masked_fill_(distance >= FAR, 0)
    return index.transpose(1, 2).contiguous()


def three_nn(target: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the three nearest points of ``source`` (B, M, 3) to each of ``target`` (B, N, 3).

    Returns Euclidean distances in the type of ``target`` and indices, both (B, N, 3), nearest
    first; infinite distances and indices 0 where fewer than three are at a finite distance.
    """
    _check(target, 'target')
    _check(source, 'source')
    distance, index = _nearest(target, source, 3)
    return distance.sqrt_().to(target.dtype), index


def group_points(features: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Copies the features (B, C, N) of groups of points (B, M, K): ``grouping_operation`` of mmcv.

    The result (B, C, M, K), unlike mmcv's, has channels last in memory. So a point's features are
    copied at once and later convolutions are faster.
    """
    batch, channels, _ = features.shape
    groups = indices.shape[1:]
    rows = _rows(features).index_select(0, _flat(indices, features.shape[2]))
    return rows.view(batch, *groups, channels).permute(0, 3, 1, 2)


def group_points_grad(grad: torch.Tensor, indices: torch.Tensor, number: int) -> torch.Tensor:
    """The gradient of ``group_points`` in the features (B, C, N): sums in the order of the groups.

    Takes the gradient (B, C, M, K) in the groups. With ``grad[..., None]`` and ``indices[...,
    None]`` it is that of ``gather_points``; with ``grad[..., None] * weight[:, None]``, that of
    ``three_interpolate``.
    """
    batch, channels = grad.shape[:2]
    rows = grad.permute(0, 2, 3, 1).reshape(-1, channels)
    total = grad.new_zeros((batch * number, channels))
    total.index_add_(0, _flat(indices, number), rows)
    return total.view(batch, number, channels).transpose(1, 2).contiguous()


def gather_points(features: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Copies the features (B, C, N) of chosen points (B, M), shape (B, C, M)."""
    index = indices.long()[:, None].expand(-1, features.shape[1], -1)
    return features.gather(2, index)


def three_interpolate(
    features: torch.Tensor, indices: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Weighted sums of the features (B, C, M) of three points each, shape (B, C, N).

    Both ``indices`` and ``weight`` have shape (B, N, 3).
    """
    result = features.new_empty((*features.shape[:2], indices.shape[1]))
    weight = weight.to(features.dtype)
    # Cloud by cloud: the rows and sums of one fit a core's cache, where a matrix is turned quickly.
    for b in range(len(features)):
        rows = features[b].t().contiguous()
        sums = F.embedding_bag(indices[b], rows, mode='sum', per_sample_weights=weight[b])
        result[b].copy_(sums.t())
    return result


def assign_score_withk(
    scores: torch.Tensor,
    point_features: torch.Tensor,
    center_features: torch.Tensor,
    knn_idx: torch.Tensor,
) -> torch.Tensor:
    """Sums over PAConv's weight bank: sum_m s_m (p_m - c_m) for each pair of centre and neighbour.

    Takes scores s (B, M, K, W), the features p and c (B, N, W, D) of points and centres under each
    of the W matrices, and neighbours (B, M, K); returns (B, D, M, K). The first neighbour is the
    centre. Like mmcv's kernel it sums, whatever ``aggregate`` says. A pair whose neighbour is no
    point (index out of [0, N)) gives 0.
    """
    batch, centres, k, _ = scores.shape
    result = point_features.new_empty((batch, centres, k, point_features.shape[3]))
    for b, part, kept, points, first in _neighbourhoods(knn_idx, point_features):
        pairs = _pairs(point_features[b], center_features[b], points, first, k)
        weight = (scores[b, part] * kept).view(-1, 1, scores.shape[3])
        result[b, part] = torch.bmm(weight, pairs).view(-1, k, result.shape[3])
    return result.permute(0, 3, 1, 2).contiguous()


def assign_score_withk_grad(
    grad: torch.Tensor,
    scores: torch.Tensor,
    point_features: torch.Tensor,
    center_features: torch.Tensor,
    knn_idx: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of ``assign_score_withk`` in scores, point features and centre features."""
    k, bank = scores.shape[2:]
    grad = grad.permute(0, 2, 3, 1)
    in_scores = torch.zeros_like(scores)
    in_points = torch.zeros_like(point_features)
    in_centers = torch.zeros_like(center_features)
    for b, part, kept, points, first in _neighbourhoods(knn_idx, point_features):
        pairs = _pairs(point_features[b], center_features[b], points, first, k)
        sums = (grad[b, part] * kept).reshape(-1, grad.shape[3], 1)
        in_scores[b, part] = torch.bmm(pairs, sums).view(-1, k, bank)
        outer = scores[b, part].reshape(-1, bank, 1) * sums.transpose(1, 2)
        in_points[b].index_add_(0, points, outer)
        outer = outer.view(-1, k, *outer.shape[1:]).sum(dim=1)
        in_centers[b].index_add_(0, first, outer, alpha=-1)
    return in_scores, in_points, in_centers


def _neighbourhoods(knn_idx: torch.Tensor, features: torch.Tensor) -> Iterator[Neighbourhood]:
    """By blocks of centres: cloud, slice, which neighbours count, neighbours, first neighbours."""
    number, bank, out = features.shape[1:]
    centres, k = knn_idx.shape[1:]
    size = max(1, 8 * BLOCK // max(1, k * bank * out))
    for b in range(len(knn_idx)):
        for start in range(0, centres, size):
            part = slice(start, start + size)
            index = knn_idx[b, part].long()
            kept = (index >= 0) & (index < number)
            index = index.clamp(0, number - 1)
            yield b, part, kept[..., None], index.flatten(), index[:, 0]


def _pairs(
    point: torch.Tensor, center: torch.Tensor, points: torch.Tensor, first: torch.Tensor, k: int
) -> torch.Tensor:
    """Features of neighbours less those of their centres, shape (M K, W, D)."""
    pairs = point.index_select(0, points)
    pairs.view(-1, k, *pairs.shape[1:]).sub_(center.index_select(0, first)[:, None])
    return pairs


@_one_thread()
def _nearest(
    queries: torch.Tensor, points: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k points (B, N, C) nearest to each query (B, M, C), by distance and then by index.

    Returns squared distances and int32 indices, (B, M, k). They are infinite and 0 where k exceeds
    N, or where no further point has a finite distance.
    """
    queries, points = _planes(queries), _planes(points)
    _, batch, number = points.shape
    wanted, asked = min(k, number), queries.shape[2]
    distance = queries.new_full((batch, asked, k), torch.inf)
    index = torch.zeros((batch, asked, k), dtype=torch.int32)
    if not (wanted and batch and asked):
        return distance, index
    finite = bool(queries.isfinite().all() and points.isfinite().all())
    distances = _Distances(queries.dtype)
    clouds, rows = max(1, LARGEST // (asked * number)), max(1, LARGEST // number)
    for first, start in itertools.product(range(0, batch, clouds), range(0, asked, rows)):
        few, part = slice(first, first + clouds), slice(start, start + rows)
        block = distances(queries[:, few, part, None], points[:, few, None])
        values = block.view(-1, number).numpy()
        if not finite:
            values[np.isnan(values)] = np.inf
        found = _smallest(values, wanted)
        for result, some in zip((distance, index), found, strict=True):
            result[few, part, :wanted] = torch.from_numpy(some).view(*block.shape[:2], wanted)
    return distance, index.masked_fill_(distance == torch.inf, 0)


def _smallest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row (M, N), by value and then by column, and their columns; (M, k).

    Overwrites ``values``. k is 1 to N.
    """
    rows, columns = values.shape
    starts, flat = np.arange(0, values.size, columns), values.reshape(-1)
    if k <= FEW:
        found = np.empty((k, rows), values.dtype)
        index = np.empty((k, rows), np.int64)
        for smallest, column in zip(found, index, strict=True):
            place = values.argmin(axis=1, out=column) + starts
            flat.take(place, out=smallest, mode='clip')
            flat[place] = np.inf
        return found.T, index.T
    # All that are no larger than the k-th, in the order of their columns, for a stable sort.
    places, start, count = _places(~(values > np.partition(values, k - 1, axis=1)[:, k - 1 : k]))
    place = np.arange(count.max())
    taken = places.take(np.where(place < count, place, 0) + start, mode='clip')
    candidates = np.where(place < count, flat[taken], np.inf)
    order = candidates.argsort(axis=1, kind='stable')[:, :k]
    index = np.take_along_axis(taken, order, axis=1) - starts[:, None]
    return np.take_along_axis(candidates, order, axis=1), index


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat positions of what is true, row after row, and where each row starts and how many it has.

    The latter two have shape (M, 1) for a mask (M, N).
    """
    places = np.flatnonzero(mask)
    start = places.searchsorted(np.arange(0, mask.size + 1, mask.shape[1]))
    return places, start[:-1, None], np.diff(start)[:, None]


def _candidates(
    points: torch.Tensor, centres: torch.Tensor, outer: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of centres (C, M), with all points (C, N) that may be near one of them.

    Yields indices of centres, and those of points in their order. Left out are points whose squared
    distance, as ``_Distances`` computes it, is ``outer`` or more for every centre of the block:
    those that are further than its root along one axis. For if a coordinate of a point exceeds the
    rounded sum of a centre's and r, it exceeds the exact sum, because it is itself a number of that
    precision. As r is slightly more than the root, the rounded difference is at least the root, its
    rounded square at least ``outer``, and what is added to it not negative.
    """
    axis = int((points.amax(dim=1) - points.amin(dim=1)).argmax())
    along, places = points[axis].double().numpy(), centres[axis].double().numpy()
    reach = math.sqrt(outer) * (1 + 1e-6)
    order = places.argsort()
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        first, last = places[rows[0]], places[rows[-1]]
        # So that nothing is left out where a bound is not a number.
        near = np.flatnonzero(~((along < first - reach) | (along > last + reach)))
        yield rows, near


def _first_hits(
    distance: np.ndarray, inner: float, outer: float, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first columns of each row where inner <= distance < outer, or distance = 0.

    Of distances (M, N); returns (M, number), where places left over repeat the first, or are 0, and
    whether there are any, (M, 1).
    """
    inside = distance < outer
    if inner > 0:
        inside &= (distance >= inner) | (distance == 0)
    hits, start, count = _places(inside)
    if not len(hits):
        return np.zeros((len(distance), number), np.int64), count > 0
    place = np.arange(number)
    found = hits.take(place * (place < count) + start, mode='clip')
    found -= np.arange(0, distance.size, distance.shape[1])[:, None]
    found *= count > 0
    return found, count > 0


class _Distances:
    """Squared distances of pairs of points, in buffers that are used again."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.total, self.step = torch.empty(0, dtype=dtype), torch.empty(0, dtype=dtype)

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Of points (C, ...) and points (C, ...) that it is broadcast with.

        The result, in the shape that they have in common without C, is valid until the next call.
        """
        first, second = torch.broadcast_tensors(first, second)
        _, number, *rest = first.shape
        width = math.prod(rest)
        block = min(number, max(1, BLOCK // max(1, width)))
        if self.total.numel() < number * width:
            self.total = self.total.new_empty(number * width)
        if self.step.numel() < 3 * block * width:
            self.step = self.step.new_empty(3 * block * width)
        total = self.total[: number * width].view(number, *rest)
        for axis in range(0, len(first), 3):
            some, others = first[axis : axis + 3], second[axis : axis + 3]
            step = self.step[: len(some) * block * width].view(len(some), block, *rest)
            # NumPy shares the memory. Its operations start faster; PyTorch is faster where a number
            # meets a row.
            sums, squares = total.numpy(), step.numpy()
            planes = list(squares)
            for start, a, b in zip(
                range(0, number, block), some.split(block, 1), others.split(block, 1), strict=True
            ):
                part = sums[start : start + block]
                if len(part) < block:
                    step, squares = step[:, : len(part)], squares[:, : len(part)]
                    planes = list(squares)
                torch.sub(a, b, out=step)
                np.multiply(squares, squares, out=squares)
                so_far = part if axis else planes[0]
                for square in planes if axis else planes[1:]:
                    so_far = np.add(so_far, square, out=part)
                if so_far is not part:
                    np.copyto(part, so_far)
        return total


def _planes(points: torch.Tensor) -> torch.Tensor:
    """Coordinates (B, N, C) that can be compared, one plane per axis: (C, B, N)."""
    return _comparable(points).detach().permute(2, 0, 1).contiguous()


def _comparable(points: torch.Tensor) -> torch.Tensor:
    """Coordinates in a type whose differences can be compared."""
    return points if points.dtype in (torch.float32, torch.float64) else points.float()


def _check(points: torch.Tensor, name: str) -> None:
    if points.dim() != 3 or points.shape[2] != 3:
        raise ValueError(f'{name} must have shape (B, N, 3), has {tuple(points.shape)}')


def _rows(features: torch.Tensor) -> torch.Tensor:
    """Features (B, C, N) as one row per point, shape (B N, C)."""
    batch, channels, number = features.shape
    rows = features.new_empty((batch, number, channels))
    # One by one, because PyTorch turns a matrix in blocks that fit a core's cache.
    for b in range(batch):
        rows[b].copy_(features[b].t())
    return rows.view(-1, channels)


def _flat(indices: torch.Tensor, number: int) -> torch.Tensor:
    """Indices of points in each of B clouds, shape (B, ...), as rows of ``_rows``."""
    offset = torch.arange(0, len(indices) * number, max(number, 1))
    return (indices.flatten(1) + offset[:, None]).flatten()
