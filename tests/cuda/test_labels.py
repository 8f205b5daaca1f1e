"""Labels and hits from coarse scores on a device, against doubles and the eager reference."""

import pytest
import torch

from mmcert.sampling import LogitMaps
from mmcert.sampling.label_decoding import add_hits, decode_labels, kernel_for
from mmcert.sampling.logit_maps import eager_labels, resized_scores

from .support import DEVICES

CASES = [
    # grid, size, window, align_corners
    ((9, 12), (72, 96), None, False),
    ((9, 12), (71, 97), None, True),
    ((23, 31), (181, 241), (3, 5, 160, 227), False),
    ((9, 12), (5, 40), None, False),
]
ROUNDING = 2e-5
"""How far below the best score a label's may be, in units of the largest: positions in float32 are
exact to 1e-7 of the grid's side, which moves a score by up to some 1e-6 of the largest."""


def random_maps(device, case, classes, dtype=torch.float32, batch=3, threshold=None):
    grid, size, window, align_corners = case
    generator = torch.Generator().manual_seed(classes)
    scores = 4 * torch.randn(batch, classes, *grid, generator=generator)
    return LogitMaps(scores.to(device, dtype), size, align_corners, window, threshold)


def assert_best(maps, labels):
    """Each label has the largest score, as interpolated in double precision on the CPU."""
    exact = resized_scores(maps.with_scores(maps.scores.cpu().double()))
    named = exact.gather(1, labels.cpu().long()[:, None])[:, 0]
    assert float((exact.amax(dim=1) - named).max()) <= ROUNDING * float(exact.abs().max())


@pytest.mark.cuda
def test_triton_reads_the_maps_of_a_device():
    assert kernel_for(random_maps('cuda', CASES[0], 19)) is not None, (
        'the eager way would be compared to itself'
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('classes', [2, 19, 150, 300])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_labels_and_hits_are_those_of_the_reference(device, classes, dtype):
    for case in CASES if dtype == torch.float32 else CASES[1:2]:
        maps = random_maps(device, case, classes, dtype)
        labels, expected = decode_labels(maps), eager_labels(maps)
        assert labels.device.type == device and labels.shape == (3, *maps.shape)
        assert_best(maps, labels)
        # Ties are frequent in half precision alone, and decided alike where products are exact.
        share = 1e-4 if dtype == torch.float32 else 1e-2
        assert float((labels != expected).float().mean()) <= share, case
        hits = torch.full(tuple(maps.shape), 5, dtype=torch.int32, device=device)
        guess = labels[1].to(torch.uint8 if classes <= 256 else torch.int32)
        for _ in range(2):
            add_hits(hits, maps, guess)
        counted = 5 + 2 * (labels == labels[1]).sum(dim=0).int()
        assert torch.equal(hits, counted), case
        by_reference = 5 + 2 * (expected == guess).sum(dim=0).int()
        assert float((hits != by_reference).float().mean()) <= 3 * share, case


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('align_corners', [False, True])
def test_exact_ties_go_to_the_lowest_class(device, align_corners):
    maps = random_maps(device, ((9, 12), (71, 97), None, align_corners), 20)
    # Every class has a twin with the same scores, next to it or far behind.
    twins = maps.scores[:, :10]
    for scores, lowest in (
        (twins.repeat_interleave(2, dim=1), lambda label: label % 2 == 0),
        (twins.repeat(1, 2, 1, 1), lambda label: label < 10),
        (torch.zeros_like(twins), lambda label: label == 0),
    ):
        tied = maps.with_scores(scores)
        labels = decode_labels(tied)
        assert bool(lowest(labels).all())
        assert_best(tied, labels)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('threshold', [0.5, 0.3])
def test_a_binary_head_is_compared_with_its_threshold(device, threshold):
    maps = random_maps(device, CASES[1], 1, threshold=threshold)
    labels = decode_labels(maps).cpu().long()
    exact = resized_scores(maps.with_scores(maps.scores.cpu().double()))[:, 0].sigmoid()
    clear = (exact - threshold).abs() > 1e-5
    assert torch.equal(labels[clear], (exact > threshold).long()[clear])
    assert 0.1 < float(labels.float().mean()) < 0.9


@pytest.mark.parametrize('device', DEVICES)
def test_hits_of_more_draws_than_a_byte_counts(device):
    maps = random_maps(device, ((3, 4), (8, 9), None, False), 2, batch=600)
    guess = decode_labels(maps)[0]
    hits = torch.zeros(8, 9, dtype=torch.int32, device=device)
    add_hits(hits, maps, guess)
    assert torch.equal(hits, (eager_labels(maps) == guess).sum(dim=0).int())
    assert int(hits.max()) > 255


@pytest.mark.cuda
@pytest.mark.parametrize('size', [(512, 1024), (1024, 2048)])
def test_labels_at_full_size(size):
    grid = (size[0] // 4, size[1] // 4)
    maps = random_maps('cuda', (grid, size, None, False), 19, batch=2)
    labels, expected = decode_labels(maps), eager_labels(maps)
    assert float((labels != expected).float().mean()) < 1e-5


@pytest.mark.cuda
def test_more_scores_than_32_bits_count():
    classes, grid, batch = 150, (360, 360), 112
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip('needs 12 GiB of free memory on the device')
    scores = torch.empty((batch, classes, *grid), dtype=torch.float16, device='cuda').normal_()
    assert scores.numel() > 2**31
    maps = LogitMaps(scores, (361, 363))
    labels = decode_labels(maps)
    last = maps.with_scores(scores[-1:].clone())
    assert torch.equal(labels[-1:], decode_labels(last))
    assert float((labels[-1:] != eager_labels(last)).float().mean()) < 1e-2
