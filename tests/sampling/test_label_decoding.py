"""Labels read from coarse scores are those of the eager reference, pixel by pixel."""

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcert.sampling import LogitMaps, label_decoding, tile_decoder
from mmcert.sampling.label_decoding import add_hits, decode_labels
from mmcert.sampling.logit_maps import eager_labels, resized_scores
from mmcert.sampling.tile_decoder import TileDecoder

SIZES = [
    # grid, size, window
    ((9, 12), (72, 96), None),
    ((9, 12), (71, 97), None),
    ((9, 12), (72, 96), (3, 5, 60, 80)),
    ((5, 7), (6, 8), None),
    ((23, 31), (180, 241), None),
    ((2, 2), (16, 9), None),
    # Not enlarged on both sides, or a grid of one row: read by the reference itself.
    ((9, 12), (9, 12), None),
    ((9, 12), (5, 40), None),
    ((1, 12), (8, 96), None),
]


def random_maps(grid, size, window, *, classes=19, smooth=True, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, classes, *grid, generator=generator) * 4
    if smooth and min(grid) > 2:
        scores = torch.nn.functional.avg_pool2d(scores, 3, 1, 1)
    return LogitMaps(scores, size, window=window, **options)


@pytest.mark.parametrize(('grid', 'size', 'window'), SIZES)
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('classes', [2, 5, 19])
def test_labels_are_those_of_the_reference(grid, size, window, align_corners, classes):
    maps = random_maps(grid, size, window, classes=classes, align_corners=align_corners)
    labels = decode_labels(maps)
    assert labels.shape == (3, *maps.shape)
    assert torch.equal(labels.long(), eager_labels(maps))


@pytest.mark.parametrize('levels', [1, 2, 3])
@pytest.mark.parametrize('classes', [3, 4, 6, 19])
def test_ties_go_to_the_lowest_class(levels, classes):
    # Few levels of score: most pixels are ties, in cells of all kinds.
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (4, classes, 8, 9), generator=generator).float()
    # Classes that cannot win keep the number of contenders small.
    scores[:2, 2:] -= 100
    for align_corners in (False, True):
        maps = LogitMaps(scores, (50, 63), align_corners)
        assert torch.equal(decode_labels(maps).long(), eager_labels(maps))


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    factor=st.tuples(st.floats(1.01, 9), st.floats(1.01, 9)),
    classes=st.integers(2, 12),
    align_corners=st.booleans(),
    spread=st.sampled_from([1e-7, 1e-6, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 2**16),
)
def test_rounding_never_decides_otherwise(grid, factor, classes, align_corners, spread, seed):
    # Scores that differ by about as much as rounding does, around a common value.
    generator = torch.Generator().manual_seed(seed)
    scores = 1 + spread * torch.randn(2, classes, *grid, generator=generator)
    size = tuple(int(side * by) + 1 for side, by in zip(grid, factor, strict=True))
    maps = LogitMaps(scores, size, align_corners)
    assert TileDecoder.suits(maps)
    assert torch.equal(decode_labels(maps).long(), eager_labels(maps))


def test_only_what_double_precision_leaves_open_is_resized(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 5, 9, 12, generator=generator)
    # One large score makes many of the others look equal up to its rounding.
    scores[:, 0, 0, 0] = 1e4
    maps = LogitMaps(scores, (72, 96))
    decode_labels(maps)  # Once, to try out what ``interpolate`` does.
    resized = []
    monkeypatch.setattr(tile_decoder, 'resized_scores', resized.append)
    assert torch.equal(decode_labels(maps).long(), eager_labels(maps))
    assert not resized


def test_double_precision_is_kept_and_half_precision_is_widened():
    maps = random_maps((9, 12), (71, 97), None)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        typed = maps.with_scores(maps.scores.to(dtype))
        assert torch.equal(decode_labels(typed).long(), eager_labels(typed))
    assert resized_scores(typed).dtype == torch.float32


def test_channels_last_scores_have_the_labels_of_contiguous_ones():
    maps = random_maps((9, 12), (71, 97), None)
    other = maps.with_scores(maps.scores.to(memory_format=torch.channels_last))
    assert torch.equal(resized_scores(maps), resized_scores(other))
    assert torch.equal(decode_labels(maps), decode_labels(other))


def test_a_binary_head_has_class_1_where_its_sigmoid_exceeds_the_threshold():
    maps = random_maps((9, 12), (72, 96), (0, 0, 70, 90), classes=1, threshold=0.3)
    labels = decode_labels(maps)
    expected = torch.nn.functional.interpolate(maps.scores, (72, 96), mode='bilinear')
    assert torch.equal(labels, (expected[:, 0, :70, :90].sigmoid() > 0.3).long())


def test_infinite_scores_are_left_to_the_reference():
    maps = random_maps((9, 12), (72, 96), None, classes=5)
    maps.scores[:, 3] = -float('inf')
    with torch.no_grad():
        assert torch.equal(decode_labels(maps).long(), eager_labels(maps))


def test_more_than_256_classes_are_read():
    maps = random_maps((4, 5), (16, 20), None, classes=300, smooth=False)
    assert torch.equal(decode_labels(maps), eager_labels(maps))


@pytest.fixture
def two_threads():
    """With one thread, torch resizes by a kernel that rounds by the number of channels."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_nothing_of_the_size_of_resized_scores_is_built(two_threads):
    maps = random_maps((16, 16), (512, 512), None, classes=64)
    sizes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    decode_labels(maps)  # Once, to try out what ``interpolate`` does.
    with Watch():
        decode_labels(maps)
    # Of one draw alone, not of three.
    assert 4 * max(sizes) < 64 * 512 * 512


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_hits_are_agreements_with_the_guess(dtype):
    labels = torch.randint(3, (700, 5), generator=torch.Generator().manual_seed(0))
    guess = torch.tensor([0, 1, 2, 0, 1], dtype=torch.uint8)
    hits = torch.full((5,), 2, dtype=torch.int32)
    add_hits(hits, labels.to(dtype), guess)
    assert torch.equal(hits, 2 + (labels == guess).sum(dim=0).int())


def test_hits_of_scores_are_hits_of_their_labels():
    maps = random_maps((9, 12), (72, 96), None)
    guess = eager_labels(maps)[0].to(torch.uint8)
    hits = torch.zeros(72, 96, dtype=torch.int32)
    add_hits(hits, maps, guess)
    assert torch.equal(hits, (eager_labels(maps) == guess).sum(dim=0).int())


KERNEL = """
import torch
from mmcert.sampling import LogitMaps, triton_decoder
from mmcert.sampling.logit_maps import eager_labels, resized_scores

cases = [
    ((9, 12), (37, 49), False, None, None, 5),
    ((9, 12), (37, 49), True, None, None, 5),
    ((9, 12), (36, 48), False, (1, 2, 30, 40), None, 19),
    ((9, 12), (5, 7), False, None, None, 5),
    ((9, 12), (9, 12), False, None, None, 5),
    ((9, 12), (20, 20), True, None, 0.5, 1),
    ((1, 4), (3, 9), False, None, None, 3),
    ((3, 3), (8, 8), False, None, None, 300),
]
for grid, size, align_corners, window, threshold, classes in cases:
    generator = torch.Generator().manual_seed(0)
    for scores in (
        torch.randn(3, classes, *grid, generator=generator),
        torch.randint(2, (3, classes, *grid), generator=generator).float(),
    ):
        for dtype in (torch.float32, torch.float16):
            maps = LogitMaps(scores.to(dtype), size, align_corners, window, threshold)
            expected = eager_labels(maps)
            # The order of roundings is torch's on a GPU; where two scores are closer than that,
            # the reference on this machine may name the other one.
            labels = triton_decoder.decode_labels(maps).long()
            different = labels != expected
            if different.any():
                resized = resized_scores(maps)
                top = resized.amax(dim=1)
                named = resized.gather(1, labels[:, None])[:, 0]
                assert (top - named)[different].max() <= 1e-6 * resized.abs().max(), maps
            hits = torch.ones(maps.shape, dtype=torch.int32)
            guess = labels[0].to(torch.int16)
            triton_decoder.add_hits(hits, maps, guess)
            assert torch.equal(hits, 1 + (labels == guess).sum(dim=0).int())
            print(int(different.sum()), 'of', different.numel(), 'named otherwise')
print('done')
"""


@pytest.mark.slow
def test_the_triton_kernel_agrees_under_its_interpreter():
    pytest.importorskip('triton')
    done = subprocess.run(
        [sys.executable, '-c', KERNEL],
        env=os.environ | {'TRITON_INTERPRET': '1'},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if 'only 0-dimensional arrays can be converted' in done.stderr:
        pytest.skip("this Triton's interpreter cannot loop with this NumPy (3.6 with 2.5)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('done\n')


@pytest.fixture
def without_triton(monkeypatch):
    real = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == 'triton' else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(label_decoding.importlib.util, 'find_spec', hidden)
    label_decoding._triton.cache_clear()
    yield
    label_decoding._triton.cache_clear()


@pytest.mark.parametrize('device', ['meta', pytest.param('cuda', marks=pytest.mark.cuda)])
def test_without_triton_a_device_is_read_eagerly_and_one_line_says_so(
    device, without_triton, caplog
):
    maps = random_maps((9, 12), (71, 97), None)
    there = maps.with_scores(maps.scores.to(device))
    hits = torch.zeros(71, 97, dtype=torch.int32, device=device)
    with caplog.at_level(logging.INFO, 'mmcert'):
        for _ in range(3):
            labels = decode_labels(there)
            add_hits(hits, there, labels[0])
    assert [record.getMessage() for record in caplog.records] == [
        f'there is no Triton for device {device!r}: labels are read by torch itself, one draw '
        'after the other, which takes more time and memory'
    ]
    assert label_decoding.kernel_for(there) is None
    assert labels.shape == (3, 71, 97)
    if device == 'cuda':
        assert torch.equal(labels, eager_labels(there))
        assert torch.equal(hits, 3 * (labels == labels[0]).sum(dim=0).int())


def test_the_kernel_is_chosen_for_cuda_alone():
    pytest.importorskip('triton')
    label_decoding._triton.cache_clear()
    assert label_decoding._triton('cuda').__name__ == 'mmcert.sampling.triton_decoder'
    assert label_decoding._triton('mps') is None
    assert label_decoding.kernel_for(random_maps((9, 12), (71, 97), None)) is None
