"""Readable tables of certified results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prettytable import PrettyTable

from mmcert.metrics.confusion import BOUNDARY_DISTANCE, ConfusionCounts

COLUMNS = {
    'procedure': 'procedure',
    'selection': 'selection',
    'k': 'k',
    'tau': 'tau',
    'alpha': 'alpha',
    'radius': 'radius',
    'certAcc': 'cert. acc.',
    'mIoU': 'cert. mIoU',
    'worst_mIoU': 'worst mIoU',
    'abstain': 'abstain',
    'abstain_valid': 'abstain (labelled)',
}
"""Columns of the table of certified rates, and their headings."""


def result_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table of certified rates, one row per combination of settings.

    Args:
        rows (Iterable[Mapping]): The settings and rates of each, with the keys of ``COLUMNS``.

    Returns:
        str: The table.
    """
    table = PrettyTable(list(COLUMNS.values()))
    for row in rows:
        table.add_row([_format(row.get(key)) for key in COLUMNS])
    return table.get_string()


def reference_table(rates: Mapping[str, float]) -> str:
    """Accuracy and mIoU without certification, which the certified numbers are to be read by."""
    table = PrettyTable(['without certification', 'accuracy', 'mIoU'])
    for name, key in (('base model, clean image', 'base'), ('smoothed model', 'smoothed')):
        if f'{key}_aAcc' in rates:
            table.add_row([name, _format(rates[f'{key}_aAcc']), _format(rates[f'{key}_mIoU'])])
    return table.get_string()


def class_table(counts: ConfusionCounts, classes: Sequence[str]) -> str:
    """Certified and worst-case IoU, certified accuracy and abstention of each class.

    Args:
        counts (ConfusionCounts): Counts over the data set.
        classes (Sequence[str]): Names of the classes.

    Returns:
        str: The table.
    """
    headings = {
        'certIoU': 'cert. IoU',
        'certAcc': 'cert. acc.',
        'worst_IoU': 'worst IoU',
        'abstain': 'abstain',
    }
    rates = counts.per_class()
    table = PrettyTable(['class', *(headings[key] for key in rates)])
    for index, name in enumerate(classes):
        table.add_row([name, *(_format(values[index]) for values in rates.values())])
    note = ''
    if counts.allowance:
        note = f'\nup to {counts.allowance} certificates may be wrong, of whatever class'
    return table.get_string() + note


def region_table(counts: ConfusionCounts) -> str:
    """Certified results near to and away from label boundaries; empty if they are not known."""
    regions = counts.by_region()
    if not regions:
        return ''
    headings = ('share', 'cert. acc.', 'worst mIoU', 'abstain')
    table = PrettyTable([f'label boundary within {BOUNDARY_DISTANCE} pixels', *headings])
    for name, rates in regions.items():
        table.add_row([name, *map(_format, rates.values())])
    return table.get_string()


def level_table(counts: ConfusionCounts) -> str:
    """Certified results by the levels of a hierarchy; empty if there is none."""
    if counts.levels is None:
        return ''
    rates = counts.levels.rates(counts.allowance)
    table = PrettyTable(['certified at this level or a finer one', 'cert. acc.', 'abstain'])
    for level in range(counts.levels.levels.shape[1] - 1):
        name = 'class' if level == 0 else f'level {level}'
        accuracy, abstain = rates[f'certAcc_level{level}'], rates[f'abstain_level{level}']
        table.add_row([name, _format(accuracy), _format(abstain)])
    gain = (
        f'certified information gain {_format(rates["CIG"])}, class mean {_format(rates["cCIG"])}'
    )
    return f'{table.get_string()}\n{gain}'


def _format(value: Any) -> str:
    if value is None:
        return '-'
    if not isinstance(value, float):
        return str(value)
    return '-' if math.isnan(value) else f'{value:.4g}'
