from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcert.metrics import ConfusionAccumulator
from mmcert.metrics.worst_case import worst_iou, worst_mean_iou


def confusion_of(label, predicted, classes):
    table = np.zeros((classes, classes + 1), dtype=np.int64)
    np.add.at(table, (label, predicted), 1)
    return table


def mean_iou(label, predicted, classes):
    ious = []
    for c in range(classes):
        union = ((label == c) | (predicted == c)).sum()
        if union:
            ious.append(((label == c) & (predicted == c)).sum() / union)
    return sum(ious) / len(ious)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 4), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**32))
def test_no_labelling_of_the_uncertified_is_worse_and_one_is_as_bad(classes, size, free, seed):
    rng = np.random.default_rng(seed)
    # Now and then only some of the classes occur.
    label = rng.integers(0, rng.integers(1, classes + 1), size)
    free = min(free, size)
    certified = np.where(rng.random(size) < 0.7, label, rng.integers(0, classes, size))
    decided = np.where(np.arange(size) < free, classes, certified)
    table = confusion_of(label, decided, classes)
    worst = min(
        mean_iou(label, np.r_[np.array(choice, dtype=int), certified[free:]], classes)
        for choice in product(range(classes), repeat=free)
    )
    assert worst_mean_iou(table) == pytest.approx(worst)


@given(st.integers(0, 2**32))
def test_the_bound_holds_at_the_size_of_a_data_set(seed):
    rng = np.random.default_rng(seed)
    classes = 11
    table = rng.integers(0, 10**7, (classes, classes + 1)) * (rng.random((classes, 12)) < 0.5)
    bound = worst_mean_iou(table)
    for _ in range(20):
        # Any assignment of the uncertified to wrong classes.
        attacked = table[:, :classes].copy()
        for c in range(classes):
            share = rng.dirichlet(np.full(classes, 0.3))
            share[c] = 0
            attacked[c] += np.floor(table[c, -1] * share / share.sum()).astype(np.int64)
            attacked[c, (c + 1) % classes] += table[c].sum() - attacked[c].sum()
        hit = np.diagonal(attacked)
        union = attacked.sum(axis=0) + attacked.sum(axis=1) - hit
        present = union > 0
        if present.any():
            assert bound <= (hit[present] / union[present]).mean() + 1e-12


def test_each_class_alone_can_be_brought_to_its_worst_iou():
    table = np.array([[6, 1, 3], [0, 5, 2]])
    np.testing.assert_allclose(worst_iou(table), [6 / (10 + 0 + 2), 5 / (7 + 1 + 3)])
    assert worst_mean_iou(table) >= worst_iou(table).mean()


def test_with_everything_certified_the_worst_is_what_was_measured():
    counts = ConfusionAccumulator([0, 1, 1], [0, 1, 0], 2).count([True] * 3)
    assert counts.rates()['worst_mIoU'] == pytest.approx(counts.rates()['mIoU'])


def test_without_components_there_is_no_worst_case():
    assert np.isnan(worst_mean_iou(np.zeros((3, 4), dtype=np.int64)))
    with pytest.raises(ValueError, match='single class'):
        worst_mean_iou(np.array([[1, 1]]))
