import numpy as np
import pytest
from scipy import stats

from mmcert.certify.dataset import dataset_statement


def test_what_is_said_of_many_images():
    found = dataset_statement(500, 1e-3)
    assert found.expected_failures == pytest.approx(0.5)
    assert found.all_hold == pytest.approx((1 - 1e-3) ** 500)
    assert found.all_hold >= 1 - 500 * 1e-3
    assert stats.binom.cdf(found.failures, 500, 1e-3) >= 0.999
    assert stats.binom.cdf(found.failures - 1, 500, 1e-3) < 0.999
    assert found.alpha_for_all == 2e-6
    assert 'over all 500 inputs' in found.describe()


def test_one_image_is_what_alpha_says():
    found = dataset_statement(1, 0.01)
    assert (found.all_hold, found.alpha_for_all) == (0.99, 0.01)


def test_copies_fail_together():
    digests = ['a'] * 60 + ['b'] * 3 + [str(index) for index in range(37)]
    found = dataset_statement(100, 0.01, digests=digests)
    assert (found.images, found.distinct) == (100, 39)
    assert found.expected_failures == pytest.approx(1.0)
    assert found.all_hold == pytest.approx(0.99**39)
    assert found.alpha_for_all == 0.01 / 39
    quantile = int(stats.binom.ppf(0.999, 39, 0.01))
    assert found.failures == 60 + 3 + (quantile - 2)
    assert '39 differ' in found.describe()
    assert 'differ' not in dataset_statement(100, 0.01, digests=map(str, range(100))).describe()


def test_the_bound_holds_where_copies_fail_together():
    rng = np.random.default_rng(0)
    copies, alpha = np.array([50, 20, 5, *[1] * 25]), 0.05
    digests = np.repeat(np.arange(len(copies)), copies).astype(str)
    found = dataset_statement(100, alpha, confidence=0.95, digests=digests)
    failed = (rng.random((20_000, len(copies))) < alpha) @ copies
    assert (failed <= found.failures).mean() >= 0.95
    # As if all of them differed, the bound would be broken.
    assert (failed <= dataset_statement(100, alpha, confidence=0.95).failures).mean() < 0.95


def test_each_input_has_a_digest():
    with pytest.raises(ValueError, match='3 inputs need a digest each, got 2'):
        dataset_statement(3, 0.01, digests=['a', 'b'])


@pytest.mark.parametrize(('images', 'alpha'), [(0, 0.1), (3, 0.0), (3, 1.0)])
def test_bad_values_are_named(images, alpha):
    with pytest.raises(ValueError, match='images|alpha'):
        dataset_statement(images, alpha)


@pytest.mark.parametrize(('images', 'alpha'), [(12, 1e-3), (7, 0.0123456), (3000, 1e-7)])
def test_what_is_said_is_rounded_to_the_side_on_which_it_holds(images, alpha):
    said = dataset_statement(images, alpha)
    all_hold, expected = (
        float(text.split('= ')[1].split()[0]) for text in said.describe().split('; ')[:2]
    )
    assert said.all_hold - 1e-3 < all_hold <= said.all_hold
    assert said.expected_failures <= expected < said.expected_failures + 1e-3
    # That none fails is said once.
    assert ('P(at most' in said.describe()) == (said.failures > 0)
