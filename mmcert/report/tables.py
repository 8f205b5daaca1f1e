"""Readable tables of certified results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prettytable import PrettyTable

from mmcert.certify.tallies import Tally

COLUMNS = {
    'procedure': 'procedure',
    'tau': 'tau',
    'alpha': 'alpha',
    'radius': 'radius',
    'certAcc': 'cert. acc.',
    'mIoU': 'cert. mIoU',
    'abstain': 'abstain',
    'abstain_valid': 'abstain (labelled)',
}
"""Columns of the table of certified rates, and their headings."""


def result_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table of certified rates, one row per combination of terms.

    Args:
        rows (Iterable[Mapping]): The terms and rates of each, with the keys of ``COLUMNS``.

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


def class_table(tally: Tally, classes: Sequence[str]) -> str:
    """Certified IoU, certified accuracy and abstention of each class.

    Args:
        tally (Tally): Counts over the data set.
        classes (Sequence[str]): Names of the classes.

    Returns:
        str: The table.
    """
    rates = tally.per_class()
    table = PrettyTable(['class', 'cert. IoU', 'cert. acc.', 'abstain'])
    for index, name in enumerate(classes):
        table.add_row([name, *(_format(values[index]) for values in rates.values())])
    return table.get_string()


def _format(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return '-' if math.isnan(value) else f'{value:.4g}'
