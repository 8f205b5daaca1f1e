import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcert.certify.hierarchy import Hierarchy
from mmcert.metrics import ConfusionAccumulator, total
from mmcert.metrics.confusion import near_boundary

CLASSES = 4


def count_certificate(label, guess, certified, num_classes, allowance=0, **options):
    return ConfusionAccumulator(label, guess, num_classes, **options).count(certified, allowance)


@st.composite
def images(draw):
    size = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    label = rng.integers(0, CLASSES + 1, size)
    label[label == CLASSES] = 255
    return label, rng.integers(0, CLASSES, size), rng.random(size) < 0.6


def literal_rates(label, guess, certified):
    """The definitions, component by component."""
    valid = [i for i in range(len(label)) if label[i] != 255]
    right = [i for i in valid if certified[i] and guess[i] == label[i]]
    ious = []
    for c in range(CLASSES):
        intersection = sum(label[i] == c for i in right)
        union = sum(label[i] == c or (certified[i] and guess[i] == c) for i in valid)
        ious.append(intersection / union if union else math.nan)
    present = [iou for iou in ious if not math.isnan(iou)]
    return {
        'certAcc': len(right) / len(valid) if valid else math.nan,
        'mIoU': sum(present) / len(present) if present else math.nan,
        'mIoU_paper': sum(present) / CLASSES,
        'abstain': sum(not c for c in certified) / len(label),
        'abstain_valid': sum(not certified[i] for i in valid) / len(valid) if valid else math.nan,
    }


@given(images())
def test_rates_follow_their_definitions(image):
    label, guess, certified = image
    rates = count_certificate(label, guess, certified, CLASSES, base=guess).rates()
    for name, expected in literal_rates(label, guess, certified).items():
        assert rates[name] == pytest.approx(expected, nan_ok=True), name
    assert rates['certified_share'] == pytest.approx(1 - rates['abstain'])


@given(st.lists(images(), min_size=1, max_size=4))
def test_counts_of_images_add_up_to_those_of_all(parts):
    added = total((count_certificate(*image, CLASSES, base=image[1]) for image in parts), CLASSES)
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    whole = count_certificate(*joined, CLASSES, base=joined[1])
    np.testing.assert_array_equal(added.certified, whole.certified)
    np.testing.assert_array_equal(added.base, whole.base)
    assert (added.components, added.abstained) == (whole.components, whole.abstained)
    assert added.images == len(parts)


@given(images())
def test_certified_accuracy_never_exceeds_the_smoothed_accuracy(image):
    rates = count_certificate(*image, CLASSES).rates()
    assert not rates['certAcc'] > rates['smoothed_aAcc']


def test_without_labels_only_abstention_is_known():
    rates = count_certificate(None, [0, 1], [True, False], 2).rates()
    assert rates['abstain'] == 0.5
    assert math.isnan(rates['certAcc'])


def test_everything_ignored_is_not_an_error():
    rates = count_certificate([255, 255], [0, 1], [True, False], 2).rates()
    assert math.isnan(rates['mIoU'])
    assert rates['mIoU_paper'] == 0


def test_another_ignore_index():
    assert (
        count_certificate([7, 1], [0, 1], [True, True], 2, ignore_index=7).rates()['certAcc'] == 1
    )


@pytest.mark.parametrize(
    ('label', 'guess', 'message'),
    [
        ([4, 0], [0, 0], r'label .* found 4, but there are 4 classes'),
        ([-1, 0], [0, 0], 'found -1'),
        ([0, 0], [0, 4], 'guess out of range'),
        ([0], [0, 0], 'one shape'),
    ],
)
def test_labels_out_of_range_are_named(label, guess, message):
    with pytest.raises(ValueError, match=message):
        count_certificate(label, guess, [True] * len(guess), CLASSES)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32))
def test_near_a_boundary_is_what_it_says(height, width, distance, seed):
    rng = np.random.default_rng(seed)
    label = (rng.random((height, width)) < rng.choice([0.02, 0.5])).astype(int)
    padded = np.pad(label, 1, mode='edge')
    shifts = [padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]
              for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))]  # fmt: skip
    touching = np.argwhere(np.any([shift != label for shift in shifts], axis=0))
    expected = np.zeros(label.shape, dtype=bool)
    for y, x in np.ndindex(height, width):
        expected[y, x] = any(max(abs(y - a), abs(x - b)) < distance for a, b in touching)
    np.testing.assert_array_equal(near_boundary(label, distance), expected)


def test_regions_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    label = np.repeat(np.repeat(rng.integers(0, CLASSES, (4, 5)), 9, 0), 9, 1)
    guess = np.where(rng.random(label.shape) < 0.9, label, 0)
    counter = ConfusionAccumulator(label, guess, CLASSES)
    counts = counter.count(rng.random(label.shape) < 0.8)
    near = near_boundary(label)
    regions = counts.by_region()
    assert regions['near']['share'] == pytest.approx(near.mean())
    for rate in ('certAcc', 'abstain_valid'):
        whole = sum(regions[name]['share'] * regions[name][rate] for name in regions)
        assert whole == pytest.approx(counts.rates()[rate])
    flat = [values.ravel() for values in (label, guess, label == guess)]
    assert count_certificate(*flat, CLASSES).by_region() == {}


def test_wrong_certificates_that_are_allowed_are_taken_from_every_rate():
    label = np.array([0] * 10 + [1] * 4 + [2] * 6)
    certified = np.ones(20, dtype=bool)
    counts = count_certificate(label, label, certified, CLASSES, allowance=5)
    rates = counts.rates()
    assert rates['certAcc'] == pytest.approx(15 / 20)
    # The class of 4 loses all, the class of 6 one.
    assert rates['mIoU'] == pytest.approx((1 + 0 + 5 / 6) / 3)
    assert math.isnan(rates['worst_mIoU'])
    assert rates['abstain'] == rates['abstain_valid'] == pytest.approx(5 / 20)
    assert rates['certified_share'] == pytest.approx(15 / 20)
    both = total([counts, counts], CLASSES)
    assert both.allowance == 10
    assert both.rates()['certAcc'] == pytest.approx(30 / 40)


@given(images(), st.integers(0, 6))
def test_certificates_that_may_be_wrong_count_as_abstained(image, allowance):
    label, guess, certified = image
    rates = count_certificate(label, guess, certified, CLASSES, allowance=allowance).rates()
    least, rng = {}, np.random.default_rng(0)
    for preferred in (label == guess, label != 255, rng.random(len(label)) < 0.5):
        # So many of the preferred certificates, then of the others, are given up.
        given = sorted(np.flatnonzero(certified), key=lambda i, first=preferred: not first[i])
        kept = certified.copy()
        kept[given[:allowance]] = False
        left = count_certificate(label, guess, kept, CLASSES).rates()
        for name in ('certAcc', 'abstain', 'abstain_valid', 'certified_share'):
            sign = -1 if name.startswith('abstain') else 1
            least[name] = np.minimum(least.get(name, np.inf), sign * left[name])
    for name, value in least.items():
        expected = -value if name.startswith('abstain') else value
        assert rates[name] == pytest.approx(expected, nan_ok=True), name


def test_the_allowance_is_charged_to_each_region_and_level():
    label = np.repeat(np.arange(CLASSES), 40).reshape(4, 40)
    level = np.zeros(label.shape, dtype=np.uint8)
    level[0, :10] = 1
    level[1, :10] = 2
    hierarchy = Hierarchy([{'low': ['a', 'b'], 'high': ['c', 'd']}], ['a', 'b', 'c', 'd'])
    counter = ConfusionAccumulator(label, label, CLASSES, hierarchy=hierarchy)
    counts = counter.count(level == 0, 7, level, [hierarchy.groups[0][label]])
    rates = counts.rates()
    assert rates['abstain_level0'] == rates['abstain'] == pytest.approx(27 / 160)
    assert rates['abstain_level1'] == pytest.approx(17 / 160)
    assert rates['certAcc_level1'] == 1 - rates['abstain_level1']
    for region in counts.by_region().values():
        if not math.isnan(region['certAcc']):
            assert region['abstain_valid'] == pytest.approx(1 - region['certAcc'])


@given(images(), st.integers(0, 6))
def test_the_mean_iou_with_wrong_certificates_is_the_least_possible(image, allowance):
    label, guess, certified = image
    counts = count_certificate(label, guess, certified, CLASSES, allowance=allowance)
    right = np.flatnonzero((label == guess) & certified)
    rng = np.random.default_rng(0)
    for _ in range(5):
        kept = certified.copy()
        kept[rng.permutation(right)[:allowance]] = False
        # Taken from the hits, not from the unions: those certificates stay where they are.
        other = counts.certified.copy()
        for index in np.flatnonzero(certified & ~kept):
            other[label[index], label[index]] -= 1
        hit = np.diagonal(other)
        union = counts.certified.sum(1) + counts.certified[:, :-1].sum(0)
        union = union - np.diagonal(counts.certified)
        present = union > 0
        if present.any():
            assert counts.rates()['mIoU'] <= (hit[present] / union[present]).mean() + 1e-12


def test_many_classes_and_wide_types():
    rng = np.random.default_rng(0)
    label, guess = rng.integers(0, 254, (2, 5000))
    certified = rng.random(5000) < 0.5
    counts = count_certificate(label, guess, certified, 254, base=guess.astype(np.uint8))
    assert counts.certified.sum() == 5000
    assert counts.certified[:, -1].sum() == (~certified).sum()
    assert np.trace(counts.smoothed) == np.trace(counts.base) == (label == guess).sum()
