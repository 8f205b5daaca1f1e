"""The CPU kernels against loops that scan point by point, as a CUDA thread does."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcert.pointops import kernels


def squared(a, b):
    """Squared distances of (M, C) and (N, C) in the coordinates' own precision, in fixed order."""
    step = a[:, None] - b[None]
    step *= step
    total = step[..., 0].copy()
    for axis in range(1, step.shape[2]):
        total += step[..., axis]
    return total


def scan_furthest(distances, num_points):
    """``distances`` (N, N): the furthest point from all so far, the first among equal ones."""
    nearest = np.full(len(distances), 1e10, distances.dtype)
    chosen = [0]
    while len(chosen) < num_points:
        nearest = np.minimum(nearest, distances[chosen[-1]])
        best, index = -1.0, 0
        for i, value in enumerate(nearest):
            if value > best:
                best, index = value, i
        chosen.append(index)
    return chosen[:num_points]


def scan_ball(distances, inner, outer, sample_num):
    # ** of NumPy's scalars does not round the product to the nearest.
    inner, outer = np.square(np.float32([inner, outer]))
    result = np.zeros((len(distances), sample_num), int)
    for row, d in zip(result, distances, strict=True):
        hits = [i for i, x in enumerate(d) if x == 0 or inner <= x < outer][:sample_num]
        if hits:
            row[:] = hits[0]
            row[: len(hits)] = hits
    return result


def scan_nearest(distances, k):
    """Values and indices of the k smallest, by value and then by index; inf and 0 beyond."""
    values = np.full((len(distances), k), np.inf, distances.dtype)
    indices = np.zeros((len(distances), k), int)
    for row, (value, index) in zip(distances, zip(values, indices, strict=True), strict=True):
        order = sorted(range(len(row)), key=lambda i: (row[i], i))[:k]
        value[: len(order)] = row[order]
        index[: len(order)] = order
    return values, indices


def clouds(batch, number, kind, seed, channels=3):
    """Coordinates (B, N, C), float32, of several kinds."""
    rng = np.random.default_rng(seed)
    shape = (batch, number, channels)
    if kind == 'random':
        points = rng.normal(size=shape)
    elif kind == 'grid':
        points = rng.integers(-1, 2, shape) / 2
    elif kind == 'copies':
        points = rng.normal(size=shape)[:, rng.integers(0, max(1, number // 3), number)]
    elif kind == 'equal':
        points = np.broadcast_to(rng.normal(size=(batch, 1, channels)), shape)
    else:  # a tight cluster far away, where the expanded form has no digits left
        points = 1000 + 1e-3 * rng.normal(size=shape)
    return torch.from_numpy(np.ascontiguousarray(points, np.float32))


KINDS = ['random', 'grid', 'copies', 'equal', 'far']
cases = given(
    batch=st.integers(1, 3),
    number=st.integers(1, 60),
    centres=st.integers(1, 40),
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 70),
    seed=st.integers(0, 999),
    rows=st.sampled_from([None, 1, 3]),
)
quick = settings(max_examples=60, deadline=None)


def blocks(rows):
    """Blocks of so few rows that small clouds need many, or those of the package for None."""
    if rows is None:
        return contextlib.nullcontext()
    return mock.patch.multiple(kernels, ROWS=rows, BLOCK=rows, LARGEST=40 * rows)


@quick
@cases
def test_furthest_point_sampling_scans_from_point_0(
    batch, number, centres, kind, count, seed, rows
):
    points = clouds(batch, number, kind, seed)
    found = kernels.furthest_point_sample(points, count)
    assert found.dtype == torch.int32 and found.shape == (batch, count)
    distances = [squared(p, p) for p in points.numpy()]
    expected = [scan_furthest(d, count) for d in distances]
    assert found.tolist() == expected
    by_distance = kernels.furthest_point_sample_with_dist(
        torch.from_numpy(np.stack(distances)), count
    )
    assert by_distance.dtype == torch.int32
    assert by_distance.tolist() == expected


@quick
@cases
def test_ball_query_takes_the_first_points_in_order(
    batch, number, centres, kind, count, seed, rows
):
    points = clouds(batch, number, kind, seed)
    around = clouds(batch, centres, kind, seed + 1)
    around[:, :1] = points[:, -1:]
    for inner, outer in ((0.0, 0.5), (0.5, 1.0), (0.25, 1e-3 if kind == 'far' else 1.5)):
        if inner >= outer:
            inner = 0.0
        with blocks(rows):
            found = kernels.ball_query(inner, outer, count, points, around)
        assert found.dtype == torch.int32 and found.shape == (batch, centres, count)
        for index, p, c in zip(found.numpy(), points.numpy(), around.numpy(), strict=True):
            np.testing.assert_array_equal(index, scan_ball(squared(c, p), inner, outer, count))


@quick
@cases
def test_neighbours_come_by_distance_and_then_by_index(
    batch, number, centres, kind, count, seed, rows
):
    points = clouds(batch, number, kind, seed)
    around = clouds(batch, centres, kind, seed)
    with blocks(rows):
        found = kernels.knn(count, points, around)
        distance, three = kernels.three_nn(around, points)
    assert found.dtype == three.dtype == torch.int32 and found.shape == (batch, count, centres)
    turned = [t.transpose(1, 2).contiguous() for t in (points, around)]
    torch.testing.assert_close(kernels.knn(count, *turned, True), found, rtol=0, atol=0)
    for b in range(batch):
        d = squared(around[b].numpy(), points[b].numpy())
        np.testing.assert_array_equal(found[b].t().numpy(), scan_nearest(d, count)[1])
        values, indices = scan_nearest(d, 3)
        np.testing.assert_array_equal(three[b].numpy(), indices)
        # The library's root may be one bit off.
        np.testing.assert_allclose(distance[b].numpy(), np.sqrt(values), rtol=2e-7)


@pytest.mark.parametrize('kind', ['random', 'grid', 'copies'])
@pytest.mark.parametrize('k', [3, 20])
def test_neighbours_among_many_points(kind, k):
    points = clouds(2, 1501, kind, 5)
    around = clouds(2, 777, kind, 6)
    found = kernels.knn(k, points, around)
    for b in range(2):
        d = squared(around[b].numpy(), points[b].numpy())
        order = np.argsort(d, axis=1, kind='stable')[:, :k]
        np.testing.assert_array_equal(found[b].t().numpy(), order)


def test_many_clouds_of_many_points_in_blocks():
    points = clouds(2, 3001, 'copies', 7)
    found = kernels.ball_query(0.0, 0.3, 16, points, points[:, :120])
    many = clouds(21, 1900, 'random', 8)
    sampled = kernels.furthest_point_sample(many, 5)
    for b in range(2):
        d = squared(points[b, :120].numpy(), points[b].numpy())
        np.testing.assert_array_equal(found[b].numpy(), scan_ball(d, 0.0, 0.3, 16))
    for row, cloud in zip(sampled.tolist()[::10], many.numpy()[::10], strict=True):
        assert row == scan_furthest(squared(cloud, cloud), 5)


@quick
@given(
    exponent=st.integers(-18, 14),
    far=st.sampled_from([0, 1, 1e3, -1e6]),
    step=st.sampled_from([1.0, 0.3, 1e-3]),
    reach=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_a_ball_ends_at_its_radius_however_large_or_small(exponent, far, step, reach, seed):
    rng = np.random.default_rng(seed)
    scale = np.float32(10.0**exponent)
    points = ((rng.integers(-6, 7, (1, 80, 3)) * step + far) * scale).astype(np.float32)
    radius = float(reach * step * scale)
    inner = radius / 2 * (seed % 2)
    distances = squared(points[0], points[0])
    with blocks(2):
        cloud = torch.from_numpy(points)
        found = kernels.ball_query(inner, radius, 9, cloud, cloud)
    np.testing.assert_array_equal(found[0].numpy(), scan_ball(distances, inner, radius, 9))


def test_points_that_are_not_finite_are_near_none():
    points = clouds(2, 300, 'random', 4)
    points[0, 7, 1], points[0, 11, 0], points[1, 250:, 2] = torch.nan, torch.inf, -torch.inf
    around = clouds(2, 200, 'random', 5)
    around[0, 3, 0], around[1, 5] = torch.nan, torch.inf
    points[1, 0], around[1, 9] = 3e30, -3e30
    with blocks(8), np.errstate(all='ignore'):
        ball = kernels.ball_query(0.0, 0.5, 4, points, around)
        distance, three = kernels.three_nn(around, points)
        many = kernels.knn(20, points, around)
        for b in range(2):
            d = squared(around[b].numpy(), points[b].numpy())
            np.testing.assert_array_equal(ball[b].numpy(), scan_ball(d, 0.0, 0.5, 4))
            values, indices = scan_nearest(np.where(np.isfinite(d), d, np.inf), 20)
            indices[values == np.inf] = 0
            np.testing.assert_array_equal(three[b].numpy(), indices[:, :3])
            np.testing.assert_array_equal(many[b].t().numpy(), indices)
            np.testing.assert_array_equal(distance[b] == torch.inf, values[:, :3] == np.inf)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_of_coordinates(dtype):
    points = clouds(2, 50, 'random', 3).to(dtype)
    exact = (points if dtype == torch.float64 else points.float()).numpy()
    distance, index = kernels.three_nn(points[:, :20], points)
    assert distance.dtype == dtype
    ball = kernels.ball_query(0.0, 0.8, 8, points, points)
    sampled = kernels.furthest_point_sample(points, 9)
    for b in range(2):
        d = squared(exact[b], exact[b])
        np.testing.assert_array_equal(index[b].numpy(), scan_nearest(d[:20], 3)[1])
        np.testing.assert_array_equal(ball[b].numpy(), scan_ball(d, 0.0, 0.8, 8))
        assert sampled[b].tolist() == scan_furthest(d, 9)


def test_neighbours_in_feature_space_are_of_all_channels_and_of_the_own_cloud():
    features = clouds(3, 40, 'random', 11, channels=17)
    found = kernels.knn(6, features)
    for b in range(3):
        d = squared(features[b].numpy(), features[b].numpy())
        np.testing.assert_array_equal(found[b].t().numpy(), scan_nearest(d, 6)[1])
    torch.testing.assert_close(kernels.knn(6, features[1:2]), found[1:2], rtol=0, atol=0)


def test_all_copies_of_one_point_sample_point_0_again():
    assert kernels.furthest_point_sample(torch.ones(1, 9, 3), 4).tolist() == [[0, 0, 0, 0]]


def test_points_near_the_origin_are_not_passed_over():
    points = torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0.6, 0, 0]]])
    assert kernels.furthest_point_sample(points, 2).tolist() == [[0, 1]]


def test_an_empty_ball_gives_0_and_an_inner_radius_keeps_the_centre():
    points = torch.tensor([[[5.0, 0, 0], [0, 0, 0], [0.5, 0, 0], [0.1, 0, 0]]])
    nobody = torch.tensor([[[50.0, 0, 0]]])
    assert kernels.ball_query(0.0, 1.0, 3, points, nobody).tolist() == [[[0, 0, 0]]]
    centre = torch.zeros(1, 1, 3)
    assert kernels.ball_query(0.2, 1.0, 3, points, centre).tolist() == [[[1, 2, 1]]]
    assert kernels.ball_query(0.0, 0.5, 4, points, centre).tolist() == [[[1, 3, 1, 1]]]


def test_places_left_over_are_0():
    points = torch.tensor([[[1.0, 0, 0], [2.0, 0, 0]]])
    assert kernels.knn(4, points, points[:, 1:])[0, :, 0].tolist() == [1, 0, 0, 0]
    distance, index = kernels.three_nn(points[:, 1:], points)
    assert index.tolist() == [[[1, 0, 0]]] and distance.tolist() == [[[0.0, 1.0, torch.inf]]]
    far = torch.tensor([[[0.0, 0, 0], [0.0, 0, 3e5], [1.0, 0, 0]]])
    assert kernels.knn(3, far, far[:, 2:])[0, :, 0].tolist() == [2, 0, 0]


def test_a_wrong_shape_is_refused_with_the_shape():
    with pytest.raises(
        ValueError, match=r'points_xyz must have shape \(B, N, 3\), has \(2, 5, 4\)'
    ):
        kernels.furthest_point_sample(torch.zeros(2, 5, 4), 2)
    with pytest.raises(ValueError, match='k must be 1 to 99, is 100'):
        kernels.knn(100, torch.zeros(1, 200, 3))
    with pytest.raises(ValueError, match='min_radius 1.0 must be less than max_radius 0.5'):
        kernels.ball_query(1.0, 0.5, 2, torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))


@quick
@given(
    batch=st.integers(1, 3), channels=st.integers(1, 9), number=st.integers(1, 20),
    groups=st.integers(1, 8), k=st.integers(1, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_features_are_gathered_grouped_and_interpolated(batch, channels, number, groups, k, seed):
    torch.manual_seed(seed)
    features = torch.randn(batch, channels, number, dtype=torch.float64, requires_grad=True)
    index = torch.randint(number, (batch, groups, k), dtype=torch.int32)
    three = torch.randint(number, (batch, groups, 3), dtype=torch.int32)
    weight = torch.rand(batch, groups, 3, dtype=torch.float64)
    cloud = torch.arange(batch)[:, None, None]

    def brute(at):
        return features[cloud, :, at.long()].permute(0, 3, 1, 2)

    for result, expected, gradient in (
        (
            kernels.group_points(features, index),
            brute(index),
            lambda g: kernels.group_points_grad(g, index, number),
        ),
        (
            kernels.gather_points(features, index[..., 0]),
            brute(index[..., :1])[..., 0],
            lambda g: kernels.group_points_grad(g[..., None], index[..., :1], number),
        ),
        (
            kernels.three_interpolate(features, three, weight),
            (brute(three) * weight[:, None]).sum(dim=-1),
            lambda g: kernels.group_points_grad(g[..., None] * weight[:, None], three, number),
        ),
    ):
        torch.testing.assert_close(result, expected)
        upstream = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, features, upstream, retain_graph=True)[0]
        torch.testing.assert_close(torch.autograd.grad(result, features, upstream)[0], wanted)
        torch.testing.assert_close(gradient(upstream), wanted)


@pytest.mark.parametrize('block', [kernels.BLOCK, 1])
def test_scores_are_assigned_to_differences_from_the_centre(block, monkeypatch):
    monkeypatch.setattr(kernels, 'BLOCK', block)
    torch.manual_seed(0)
    scores, points, centers = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 5, 4, 3), (2, 9, 3, 6), (2, 9, 3, 6))
    )
    index = torch.randint(9, (2, 5, 4))
    index[0, 2, 3], index[1, 1, 2] = 9, -1
    kept = ((index >= 0) & (index < 9))[..., None]
    safe, cloud = index.clamp(0, 8), torch.arange(2)[:, None, None]
    pairs = points[cloud, safe] - centers[cloud, safe[..., :1]]
    expected = torch.einsum('bnkm,bnkmo->bonk', scores * kept, pairs)
    inputs = (scores, points, centers)
    torch.testing.assert_close(kernels.assign_score_withk(*inputs, index), expected)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, upstream)
    found = kernels.assign_score_withk_grad(upstream, *(t.detach() for t in inputs), index)
    for gradient, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_gradients_are_the_same_every_time():
    index = torch.randint(50, (4, 200, 16))
    grad = torch.randn(4, 32, 200, 16)
    once = kernels.group_points_grad(grad, index, 50)
    assert all(torch.equal(kernels.group_points_grad(grad, index, 50), once) for _ in range(5))
