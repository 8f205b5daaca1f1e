"""What the planner says before a run, and what configs leave to it."""

from dataclasses import replace

import pytest

from mmcert.certify.planning import StoppingRule, first_look
from mmcert.certify.sequential import spend
from mmcert.certify.settings import PROCEDURE, SELECTION, CertifySettings
from mmcert.engine.smoothing_config import SmoothingConfig
from mmcert.runs.planner import PlannedRun
from mmcert.runs.planner import report as report_of

K = 172_800
CELLS = dict(
    type='TransformationCells', transformation='rotation', low=-1.0, high=1.0,
    noise=dict(type='GaussianNoise', sigma=0.5),
)  # fmt: skip


def report(plan, taus):
    return report_of(PlannedRun(plan, K), taus)


def plan(**smoothing):
    return SmoothingConfig.from_cfg({'sigma': 0.25, 'tau': 0.5} | smoothing).plan()


def test_the_report_says_what_is_counted_and_where_it_is_tested():
    printed = report(plan(), [0.6])
    assert "selection='auto' is holdout here (ordered_holm)" in printed
    assert 'Hits needed: so many draws must give the first pixel the class' in printed
    assert 'the others need at most one hit more' in printed
    printed = report(plan(selection='same_draws'), [0.6])
    assert 'same_draws is tested at 0.54' in printed
    printed = report(plan(tau=0.75), [0.6])
    assert "selection='auto' is same_draws here" in printed
    assert '105/110' in printed and '96/100' in printed
    assert ' is tested at ' not in printed


def test_the_report_of_looks_is_tested_where_the_first_look_is():
    printed = report(plan(n='auto', budget=400), [0.6])
    assert 'hits are those at the last one in the budget' in printed
    assert "selection='auto' is " in printed


def cells(printed, table):
    """The rows of a table of the report."""
    rows = [line for line in printed.splitlines() if line.startswith('|')]
    heads = [i for i, row in enumerate(rows) if 'procedure' in row or 'tau ' in row[:8]]
    assert len(heads) == 2
    part = rows[heads[0] + 1 : heads[1]] if table == 0 else rows[heads[1] + 1 :]
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in part]


def test_the_report_of_looks_speaks_of_looks_that_the_row_has():
    wanted = plan(n='auto', budget=1000, tau=0.9, procedure='holm', selection='holdout')
    printed = report(wanted, [0.95, 0.98])
    assert 'largest tau in 1000 draws' in printed and 'smallest n' not in printed
    for row in cells(printed, 0):
        settings = CertifySettings(
            0.9, 1e-3, row[0].split(',')[0], row[1], 0.001 if 'kfwer' in row[0] else None
        )
        first = first_look(settings, K, 10)
        looks = [first * 2**look for look in range(10) if first * 2**look <= 1000]
        words = ', '.join(map(str, looks))
        assert row[2:4] == ['yes', f'{words} (at {spend(1e-3, len(looks)):.3g})']
        tau = float(row[4])
        assert first_look(replace(settings, tau=tau - 1e-4), K, 10) <= 1000
        assert first_look(replace(settings, tau=tau + 1e-4), K, 10) > 1000
        counted = looks[-1] + (10 if row[1] == 'same_draws' else 0)
        assert row[6].endswith(f'/{counted}')
    # What is not reached has no last look.
    by_tau = {row[0]: row[2:] for row in cells(printed, 1)}
    assert by_tau['0.9'] == ['234', '468']
    assert by_tau['0.98'][1] == '-'
    short = report(replace(wanted, stopping=StoppingRule(200)), [])
    rows = {(row[0], row[1]): row[2:] for row in cells(short, 0)}
    assert rows['holm', 'holdout'][:2] == ['no', 'none; the first is 234']
    assert rows['holm', 'holdout'][4:] == ['-', '-']
    assert rows['kfwer, k=0.001', 'holdout'][0] == 'yes'


def test_the_report_names_what_is_not_possible():
    printed = report(plan(n0=0, tau=0.75), [])
    possible = {(row[0], row[1]): row[2] for row in cells(printed, 0)}
    assert possible['holm', 'holdout'] == 'not possible'
    assert possible['holm', 'same_draws'] == 'yes'
    assert 'for the component that ordered_holm tests first' in printed


def test_cells_depend_on_the_images():
    printed = report(plan(sigma=None, perturbation=CELLS), [])
    assert 'Cells depend on the images: leave --size out.' in printed


def test_runs_and_terms_have_one_default():
    assert (PROCEDURE, SELECTION) == ('ordered_holm', 'auto')
    assert plan(tau=0.75, alpha=0.01).settings == CertifySettings(0.75, 0.01)


def test_cells_leave_holdout_alone():
    in_cells = {'sigma': None, 'perturbation': CELLS}
    assert plan(**in_cells).settings.selection == 'holdout'
    assert plan(**in_cells, selection='holdout').settings == plan(**in_cells).settings
    with pytest.raises(ValueError, match="set selection='holdout' or 'auto'"):
        plan(**in_cells, selection='same_draws')
    with pytest.raises(ValueError, match='n0 must be an integer of at least 1'):
        plan(**in_cells, n0=0)
