"""What the planner says before a run, and what configs leave to it."""

import pytest

from mmcert.certify.terms import PROCEDURE, SELECTION, Terms
from mmcert.engine.planner import report
from mmcert.engine.smoothing_config import SmoothingConfig

K = 172_800
SLICES = dict(
    type='SlicedTransformation', transformation=dict(type='rotation'), low=-1.0, high=1.0, slices=3,
    sigma=0.5,
)  # fmt: skip


def plan(**smoothing):
    return SmoothingConfig.from_cfg({'sigma': 0.25, 'tau': 0.5} | smoothing).plan()


def test_the_report_says_what_is_counted_and_where_it_is_tested():
    printed = report(plan(), K, 1, [0.6], None)
    assert "selection='auto' is holdout here (ordered_holm)" in printed
    assert 'the others need at most one hit more' in printed
    printed = report(plan(selection='same_draws'), K, 1, [0.6], None)
    assert 'same_draws is tested at 0.54' in printed
    printed = report(plan(tau=0.75), K, 1, [0.6], None)
    assert "selection='auto' is same_draws here" in printed
    assert '105/110' in printed and '96/100' in printed
    assert ' is tested at ' not in printed


def test_the_report_of_looks_is_tested_where_the_first_look_is():
    printed = report(plan(n='auto', budget=400), K, 1, [0.6], None)
    assert 'at the level of the last look' in printed
    assert "selection='auto' is " in printed


def test_runs_and_terms_have_one_default():
    assert (PROCEDURE, SELECTION) == ('ordered_holm', 'auto')
    assert plan(tau=0.75, alpha=0.01).terms == Terms(0.75, 0.01)


def test_parts_leave_holdout_alone():
    sliced = {'sigma': None, 'perturbation': SLICES}
    assert plan(**sliced).terms.selection == 'holdout'
    assert plan(**sliced, selection='holdout').terms == plan(**sliced).terms
    with pytest.raises(ValueError, match="set selection='holdout' or 'auto'"):
        plan(**sliced, selection='same_draws')
    with pytest.raises(ValueError, match='n0 must be an integer of at least 1'):
        plan(**sliced, n0=0)
