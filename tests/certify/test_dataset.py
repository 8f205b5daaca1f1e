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
    assert 'of all 500 inputs at once' in found.words


def test_one_image_is_what_alpha_says():
    found = dataset_statement(1, 0.01)
    assert (found.all_hold, found.alpha_for_all) == (0.99, 0.01)


@pytest.mark.parametrize(('images', 'alpha'), [(0, 0.1), (3, 0.0), (3, 1.0)])
def test_bad_values_are_named(images, alpha):
    with pytest.raises(ValueError, match='images|alpha'):
        dataset_statement(images, alpha)
