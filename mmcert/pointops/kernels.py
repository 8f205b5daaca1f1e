"""Point operators on the CPU, in plain PyTorch.

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
from collections.abc import Iterator

import torch
import torch.nn.functional as F

BLOCK = 1 << 17  # elements of a block of distances: a few such buffers stay in a core's cache
LARGEST = 1 << 19  # elements of the largest matrix of distances that is kept whole
STEP = 1 << 15  # elements of a step of sampling
FEW = 16  # up to so many smallest elements are found faster one by one than all together
FAR = 1e10  # mmcv's kernels take this for the largest squared distance

Neighbourhood = tuple[int, slice, torch.Tensor, torch.Tensor, torch.Tensor]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Runs thousands of short operations on one thread.

    Two idle cores were as fast as one. On busy cores, sharing each operation among threads took 10
    times as long, because each waits for the slowest.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
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
    xyz = _comparable(points_xyz).detach().permute(2, 0, 1).contiguous()
    clouds = max(1, STEP // max(number, 1))
    # Parts of equal size cost less than full parts and a small rest.
    parts = max(1, -(-batch // clouds))
    sampled = [_sample(part.contiguous(), num_points) for part in xyz.chunk(parts, dim=1)]
    return torch.cat(sampled, dim=0)


def _sample(xyz: torch.Tensor, num_points: int) -> torch.Tensor:
    """Samples in clouds whose coordinates come as one plane per axis, shape (3, B, N)."""
    _, batch, number = xyz.shape
    result = torch.zeros((num_points, batch, 1), dtype=torch.int64)
    nearest = xyz.new_full((batch, number), FAR)
    distance, step = torch.empty_like(nearest), torch.empty_like(nearest)
    centre = xyz.new_empty((3, batch, 1))
    furthest = xyz.new_empty((batch, 1))
    (x, y, z), (cx, cy, cz) = xyz.unbind(), centre.unbind()
    for last, row in itertools.pairwise(result.unbind()):
        torch.gather(xyz, 2, last.expand(3, -1, -1), out=centre)
        torch.sub(x, cx, out=step)
        torch.mul(step, step, out=distance)
        torch.sub(y, cy, out=step)
        distance.add_(step.mul_(step))
        torch.sub(z, cz, out=step)
        distance.add_(step.mul_(step))
        torch.minimum(nearest, distance, out=nearest)
        torch.max(nearest, dim=1, keepdim=True, out=(furthest, row))
    return result[..., 0].t().to(torch.int32).contiguous()


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
    number, centres = xyz.shape[1], center_xyz.shape[1]
    points = _comparable(xyz).detach().transpose(1, 2).contiguous()
    result = torch.zeros((xyz.shape[0], centres, sample_num), dtype=torch.int32)
    if number == 0 or sample_num == 0:
        return result
    place = torch.arange(sample_num)
    # Whole words of mask, 8 points each, the last filled up with points that are nowhere near.
    padded = -(-number // 8) * 8
    points = F.pad(points, (0, padded - number), value=torch.inf)
    block = max(1, BLOCK // padded)
    blocks = _Distances(min(block, centres) * padded, points.dtype)
    for cloud, centre, found in zip(points, _comparable(center_xyz).detach(), result, strict=True):
        for first in range(0, centres, block):
            distance = blocks(centre[first : first + block], cloud)
            # Rows of hits in order, one after the other: row i starts at start[i].
            hits = _hits(distance, inner, outer, blocks.spare(distance))
            edges = torch.arange(0, distance.numel() + 1, padded)
            start = torch.searchsorted(hits, edges)
            start, count = start[:-1, None], start.diff()[:, None]
            if len(hits):
                taken = torch.where(place < count, place, 0).add_(start).clamp_(max=len(hits) - 1)
                index = torch.where(count > 0, hits[taken] - edges[:-1, None], 0)
                found[first : first + block] = index
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
    first; infinite distances and indices 0 where there are fewer than three.
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
    batch, channels, number = features.shape
    sums = F.embedding_bag(
        _flat(indices, number).view(-1, 3),
        _rows(features),
        mode='sum',
        per_sample_weights=weight.reshape(-1, 3).to(features.dtype),
    )
    return sums.view(batch, -1, channels).transpose(1, 2).contiguous()


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

    Returns squared distances, infinite where k exceeds N, and int32 indices, 0 there; (B, M, k).
    """
    queries, points = _comparable(queries).detach(), _comparable(points).detach()
    batch, number, _ = points.shape
    wanted, asked = min(k, number), queries.shape[1]
    distance = queries.new_full((batch, asked, k), torch.inf)
    index = torch.zeros((batch, asked, k), dtype=torch.int32)
    if not (wanted and batch and asked):
        return distance, index
    # Groups of about this many rows leave the fewest rows to search, see _smallest_of_groups.
    group = 1
    while 4 * wanted * group * group < number:
        group *= 2
    padded = -(-number // group) * group
    points = F.pad(points, (0, 0, 0, padded - number), value=torch.inf)
    queries = queries.transpose(1, 2).contiguous()
    block = max(1, LARGEST // padded)
    blocks = _Distances(min(block, asked) * padded, queries.dtype)
    for b in range(batch):
        for first in range(0, asked, block):
            part = slice(first, first + block)
            block_distance = blocks(points[b], queries[b, :, part])
            found = _smallest_of_groups(block_distance, wanted, group)
            distance[b, part, :wanted] = found[0].t()
            index[b, part, :wanted] = found[1].clamp_(max=number - 1).t()
    return distance, index


def _smallest_of_groups(
    distance: torch.Tensor, k: int, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest of each column (N, M), by value and then by row, and their rows; (k, M).

    Searches groups of consecutive rows first. A group is as good as its smallest element, so the k
    smallest are in the k groups with the smallest minima, the upper ones among equals. N is a
    multiple of ``group``, and at least k groups unless that is 1.
    """
    if group == 1:
        return _smallest(distance, k)
    lowest = distance.view(-1, group, distance.shape[1]).amin(dim=1)
    # In order of their rows, so that among equal candidates the first is the upper one.
    chosen = _smallest(lowest, k)[1].sort(dim=0).values
    rows = (chosen[:, None] * group + torch.arange(group)[:, None]).flatten(0, 1)
    values, place = _smallest(distance.gather(0, rows), k)
    return values, rows.gather(0, place)


def _smallest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest of each column (N, M), by value and then by row, and their rows; (k, M).

    Takes a few one by one, with passes over whole rows, which is faster than sorting columns.
    Overwrites ``values``, which must not be negative.
    """
    if k > FEW and values.dtype == torch.float32:
        # As integers their bits have the same order; with the row below, no two are equal.
        keys = values.t().contiguous().view(torch.int32).long().bitwise_left_shift_(32)
        keys = keys.add_(torch.arange(len(values))).topk(k, dim=1, largest=False).values.t()
        return (keys >> 32).int().view(torch.float32), keys & 0xFFFFFFFF
    number, columns = values.shape
    row = torch.arange(number, dtype=values.dtype)[:, None]
    beyond = 2.0**24
    where, best = torch.empty_like(values), values.new_empty(columns)
    found = values.new_empty((k, columns))
    rows = torch.empty((k, columns), dtype=torch.int64)
    for j, smallest in enumerate(found):
        torch.amin(values, dim=0, out=smallest)
        torch.ne(values, smallest, out=where)
        torch.add(row, where, alpha=beyond, out=where)
        rows[j] = torch.amin(where, dim=0, out=best).clamp_(max=number - 1)
        values.scatter_(0, rows[j : j + 1], torch.inf)
    return found, rows


def _hits(distance: torch.Tensor, inner: float, outer: float, spare: torch.Tensor) -> torch.Tensor:
    """Flat positions where inner <= distance < outer, or distance = 0, in order."""
    # Comparing into floats, and finding whole words first, is several times as fast as comparing
    # into booleans and finding each.
    inside = torch.lt(distance, outer, out=spare).bool()
    if inner > 0:
        inside &= (distance >= inner) | (distance == 0)
    words = inside.view(-1).view(torch.int64).nonzero()[:, 0]
    place = inside.view(-1, 8).index_select(0, words).nonzero()
    return words.index_select(0, place[:, 0]).mul_(8).add_(place[:, 1])


class _Distances:
    """Squared distances of up to ``size`` pairs of points, in buffers that are used again."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.total, self.step = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)

    def __call__(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Of rows (R, C) and columns (C, N), shape (R, N), valid until the next call."""
        number, width = len(rows), columns.shape[1]
        total = self.total[: number * width].view(number, width)
        block = max(1, BLOCK // width)
        for first in range(0, number, block):
            part = total[first : first + block]
            step = self.spare(part)
            for axis, column in enumerate(columns):
                torch.sub(column, rows[first : first + block, axis, None], out=step)
                if axis:
                    part.add_(step.mul_(step))
                else:
                    torch.mul(step, step, out=part)
        return total

    def spare(self, distance: torch.Tensor) -> torch.Tensor:
        """A buffer in the shape of what a call returned, free until the next call."""
        return self.step[: distance.numel()].view(distance.shape)


def _comparable(points: torch.Tensor) -> torch.Tensor:
    """Coordinates in a type whose differences can be compared."""
    return points if points.dtype in (torch.float32, torch.float64) else points.float()


def _check(points: torch.Tensor, name: str) -> None:
    if points.dim() != 3 or points.shape[2] != 3:
        raise ValueError(f'{name} must have shape (B, N, 3), has {tuple(points.shape)}')


def _rows(features: torch.Tensor) -> torch.Tensor:
    """Features (B, C, N) as one row per point, shape (B N, C)."""
    return features.transpose(1, 2).reshape(-1, features.shape[1])


def _flat(indices: torch.Tensor, number: int) -> torch.Tensor:
    """Indices of points in each of B clouds, shape (B, ...), as rows of ``_rows``."""
    offset = torch.arange(0, len(indices) * number, max(number, 1))
    return (indices.flatten(1) + offset[:, None]).flatten()
