"""What is kept of each input until all are pooled."""

import pickle
from dataclasses import fields

import numpy as np
import pytest

from mmcert.certify import Hierarchy
from mmcert.metrics import ConfusionAccumulator
from mmcert.metrics.counts import Counts
from mmcert.metrics.results import InputResult


def counts_of(classes, labelled=True, base=True, hierarchy=False, shape=(20, 30)):
    chance = np.random.default_rng(classes)
    guess = chance.integers(classes // 2, classes, shape)
    names = [str(index) for index in range(classes)]
    levels = Hierarchy([{'all': names}], names) if hierarchy else None
    level = chance.integers(0, 3, shape) if hierarchy else None
    return ConfusionAccumulator(
        np.where(chance.random(shape) < 0.2, 255, guess) if labelled else None,
        guess,
        classes,
        base=guess if base else None,
        hierarchy=levels,
    ).count(chance.random(shape) < 0.5, 3, level, [np.zeros(shape, int)] * hierarchy)


def assert_equal(one, other):
    assert type(one) is type(other)
    for field in fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, Counts):
            assert_equal(first, second)
        elif isinstance(first, np.ndarray):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second


@pytest.mark.parametrize(
    'options',
    [{}, {'labelled': False}, {'base': False}, {'hierarchy': True}, {'shape': (600,)}],
    ids=str,
)
def test_counts_come_back_as_they_were(options):
    counts = counts_of(9, **options)
    result = pickle.loads(pickle.dumps(InputResult('a', {'kind': 'certificate'}, counts)))
    assert_equal(result.counts, counts)
    assert_equal(result.counts + result.counts, counts + counts)
    expected = {'name': 'a', **counts.rates(), 'kind': 'certificate'}
    np.testing.assert_equal(result.to_dict(), expected)


def test_classes_that_do_not_occur_take_no_memory():
    counts = counts_of(150, shape=(10, 10))
    kept = len(pickle.dumps(InputResult('a', {'kind': 'certificate'}, counts)))
    assert kept < 10_000 < 700_000 < len(pickle.dumps(counts))
