import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from mmcert.certify import Votes, certify


@pytest.fixture
def baselines(load):
    return load('baselines')


def test_certify_is_the_clopper_pearson_bound_where_it_exceeds_one_half(baselines):
    expected = proportion_confint(95, 100, 2e-3, method='beta')[0]
    assert baselines.cohen_certify(95, 100, 1e-3) == pytest.approx(expected)
    assert baselines.cohen_certify(55, 100, 1e-3) is None


def test_joint_class_certifies_all_or_nothing(baselines):
    stable = np.tile([0, 1, 2], (100, 1))
    found = baselines.joint_class(stable[:10], stable, 1e-3)
    assert found.certified.all() and found.tau > 0.9
    stable[::2, 1] = 0
    found = baselines.joint_class(stable[:10], stable, 1e-3)
    assert not found.certified.any() and found.tau is None


def test_indiv_class_with_tau_is_segcertify_with_bonferroni(baselines):
    hits = np.arange(101)
    votes = Votes(np.zeros(101, dtype=int), hits, 100, 10)
    expected = certify(votes, tau=0.75, alpha=1e-3, procedure='bonferroni').certified
    np.testing.assert_array_equal(baselines.indiv_class(hits, 100, 1e-3, 0.75).certified, expected)


def test_one_bad_component_costs_indiv_class_everything_without_tau(baselines):
    good = np.full(20, 100)
    found = baselines.indiv_class(good, 100, 1e-3)
    assert found.certified.all()
    assert found.tau == pytest.approx(baselines.cohen_certify(100, 100, 1e-3 / 20))
    good[3] = 50
    assert not baselines.indiv_class(good, 100, 1e-3).certified.any()
    assert baselines.indiv_class(good, 100, 1e-3, 0.75).certified.sum() == 19
