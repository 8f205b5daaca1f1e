"""Tables and curves of corruptions, from a summary."""

import math

import numpy as np
import pytest

from mmcert.report.corruptions import (
    bounds_of,
    corruption_page,
    corruption_rows,
    mean_rates,
    overall,
    plot_corruptions,
    rates_of,
)


def rates(miou):
    return {'accuracy': miou + 0.1, 'mIoU': miou}


def entry(severity, base, smoothed, bound=None):
    return {
        'severity': severity,
        'rates': {'base': rates(base), 'smoothed': rates(smoothed)},
        'certified': bound and {'inputs': 1, 'share': 0.5, 'accuracy': 0.4, 'mIoU': bound},
    }


@pytest.fixture(scope='module')
def summary():
    clean = {'base': rates(0.8), 'smoothed': rates(0.6)}
    corruptions = []
    for name, category, entries in (
        ('gaussian_noise', 'noise', [entry(1, 0.4, 0.6), entry(5, 0.0, 0.3)]),
        ('pixelate', 'digital', [entry(1, 0.8, 0.6, bound=0.25), entry(5, 0.6, 0.5)]),
    ):
        mean = {
            model: mean_rates(
                {e['severity']: e['rates'][model] for e in entries}, clean[model], category
            )
            for model in clean
        }
        corruptions.append(
            {'corruption': name, 'category': category, 'severities': entries, 'mean': mean}
        )
    return {
        'settings': {'severities': [1, 5]},
        'models': ['base', 'smoothed'],
        'bounded': 'smoothed',
        'clean': clean,
        'corruptions': corruptions,
        'mean': {model: overall(corruptions, model) for model in clean},
    }


def test_of_noise_three_severities_count_and_of_others_all(summary):
    noise, pixelate = summary['corruptions']
    for found, counted, wanted in (
        (noise, [1], {'accuracy': 0.5, 'mIoU': 0.4, 'drop': 0.5}),
        (pixelate, [1, 5], {'accuracy': 0.8, 'mIoU': 0.7, 'drop': 0.125}),
    ):
        mean = dict(found['mean']['base'])
        assert mean.pop('severities') == counted
        assert mean == pytest.approx(wanted)
    assert summary['mean']['base'] == pytest.approx(
        {'accuracy': 0.65, 'mIoU': 0.55, 'drop': 0.3125}
    )
    none = mean_rates({4: rates(0.5)}, rates(0.5), 'noise')
    assert none['severities'] == []
    assert math.isnan(none['drop'])
    assert overall([{'mean': {'base': none}}, pixelate], 'base')['mIoU'] == pytest.approx(0.7)


def test_rows_say_where_a_bound_holds(summary):
    headings, rows = corruption_rows(summary)
    assert headings == ['corruption', 'model', 'clean', '1', '5', 'mean', 'relative drop']
    assert [row[1] for row in rows] == [
        'base', 'smoothed', 'base', 'smoothed', 'smoothed, at least', 'base', 'smoothed',
    ]  # fmt: skip
    assert rows[4] == ['pixelate', 'smoothed, at least', None, 0.25, None, None, None]
    page = corruption_page(summary, ['What it means.'])
    assert '| pixelate | smoothed, at least | - | 0.250 | - | - | - |' in page
    assert page.startswith('# mIoU under corruptions\n\nWhat it means.\n\n| corruption |')


def test_the_bound_of_what_is_not_certified_is_the_worst_case():
    confusion = np.array([[6, 0, 0], [0, 4, 0]])
    assert bounds_of(confusion) == rates_of(confusion)
    nothing = np.array([[0, 0, 6], [0, 0, 4]])
    assert bounds_of(nothing) == {'accuracy': 0.0, 'mIoU': 0.0}


def test_curves_are_drawn(summary, tmp_path):
    plot_corruptions(summary, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes()[:4] == b'\x89PNG'
