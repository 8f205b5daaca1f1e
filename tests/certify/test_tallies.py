import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcert.certify import tally, total

CLASSES = 4


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
    rates = tally(label, guess, certified, CLASSES, base=guess).rates()
    for name, expected in literal_rates(label, guess, certified).items():
        assert rates[name] == pytest.approx(expected, nan_ok=True), name
    assert rates['certified_share'] == pytest.approx(1 - rates['abstain'])


@given(st.lists(images(), min_size=1, max_size=4))
def test_tallies_of_images_add_up_to_the_tally_of_all(parts):
    added = total((tally(*image, CLASSES, base=image[1]) for image in parts), CLASSES)
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    whole = tally(*joined, CLASSES, base=joined[1])
    np.testing.assert_array_equal(added.certified, whole.certified)
    np.testing.assert_array_equal(added.base, whole.base)
    assert (added.components, added.abstained) == (whole.components, whole.abstained)
    assert added.images == len(parts)


@given(images())
def test_certified_accuracy_never_exceeds_the_smoothed_accuracy(image):
    rates = tally(*image, CLASSES).rates()
    assert not rates['certAcc'] > rates['smoothed_aAcc']


def test_without_labels_only_abstention_is_known():
    rates = tally(None, [0, 1], [True, False], 2).rates()
    assert rates['abstain'] == 0.5
    assert math.isnan(rates['certAcc'])


def test_everything_ignored_is_not_an_error():
    rates = tally([255, 255], [0, 1], [True, False], 2).rates()
    assert math.isnan(rates['mIoU'])
    assert rates['mIoU_paper'] == 0


def test_another_ignore_index():
    assert tally([7, 1], [0, 1], [True, True], 2, ignore_index=7).rates()['certAcc'] == 1


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
        tally(label, guess, [True] * len(guess), CLASSES)
