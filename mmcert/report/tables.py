"""Readable tables of certified results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prettytable import PrettyTable

from mmcert.certify.rounding import AtMost
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

OF_TESTS = ('procedure', 'selection', 'k', 'tau', 'alpha', 'radius')
"""Columns that an enumeration has no values for."""

OF_LABELS = ('certAcc', 'mIoU', 'worst_mIoU', 'abstain_valid')
"""Columns that have no values where nothing is labelled."""

UNLABELLED = 'without labels there is neither accuracy nor mIoU'
"""What is said in place of these."""

EXACT_COLUMNS = {
    'kind': 'kind',
    'num_values': 'parameters',
    **{key: heading for key, heading in COLUMNS.items() if key not in OF_TESTS},
}
"""The columns of an enumeration."""


def result_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] = COLUMNS) -> str:
    """The table of certified rates: a row for each ``rows``, with the keys of ``columns``.

    Radii are rounded down. Without labels it has no columns of accuracy.
    """
    rows = list(rows)
    if rows and all(_is_nan(row.get('certAcc')) for row in rows):
        columns = {key: heading for key, heading in columns.items() if key not in OF_LABELS}

    def cell(row: Mapping[str, Any], key: str) -> Any:
        value = row.get(key)
        return AtMost(value) if key == 'radius' and value is not None else value

    return text_table(columns.values(), ([cell(row, key) for key in columns] for row in rows))


def reference_table(rates: Mapping[str, float]) -> str:
    """Accuracy and mIoU without certification, to compare the certified ones with.

    Without labels, a sentence that says so.

    >>> print(reference_table({'smoothed_aAcc': 0.93, 'smoothed_mIoU': 0.7}))
    +-----------------------+----------+------+
    | without certification | accuracy | mIoU |
    +-----------------------+----------+------+
    |     smoothed model    |   0.93   | 0.7  |
    +-----------------------+----------+------+
    """
    rows = [
        [name, rates[f'{key}_aAcc'], rates[f'{key}_mIoU']]
        for key, name in (('base', 'base model, clean image'), ('smoothed', 'smoothed model'))
        if f'{key}_aAcc' in rates
    ]
    if rows and all(_is_nan(accuracy) for _, accuracy, _ in rows):
        return UNLABELLED
    return text_table(['without certification', 'accuracy', 'mIoU'], rows)


def class_table(counts: ConfusionCounts, classes: Sequence[str]) -> str:
    """Certified and worst-case IoU, certified accuracy and abstention of each class.

    Empty without labels.
    """
    if not counts.labelled:
        return ''
    headings = {**COLUMNS, 'certIoU': 'cert. IoU', 'worst_IoU': 'worst IoU'}
    rates = counts.per_class()
    rows = zip(classes, *rates.values(), strict=True)
    note = ''
    if counts.allowance:
        note = f'\nup to {counts.allowance} certificates may be wrong, of whatever class'
    return text_table(['class', *(headings[key] for key in rates)], rows) + note


def region_table(counts: ConfusionCounts) -> str:
    """Certified results near to and away from label boundaries; empty if they are not known."""
    regions = counts.by_region()
    if not regions or not counts.labelled:
        return ''
    first = f'label boundary within {BOUNDARY_DISTANCE} pixels'
    rows = ([name, *rates.values()] for name, rates in regions.items())
    return text_table([first, 'share', 'cert. acc.', 'worst mIoU', COLUMNS['abstain_valid']], rows)


def level_table(counts: ConfusionCounts) -> str:
    """Certified results by the levels of a hierarchy; empty without one, or without labels."""
    if counts.levels is None or not counts.labelled:
        return ''
    rates = counts.levels.rates(counts.allowance)
    names = ['class', *(f'level {level}' for level in range(1, counts.levels.levels.shape[1] - 1))]
    rows = (
        [name, rates[f'certAcc_level{level}'], rates[f'abstain_level{level}']]
        for level, name in enumerate(names)
    )
    table = text_table(['certified at this level or a finer one', 'cert. acc.', 'abstain'], rows)
    gain, by_class = _format(rates['CIG']), _format(rates['cCIG'])
    return f'{table}\ncertified information gain {gain}, class mean {by_class}'


def text_table(headings: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of text: numbers with four digits, what is None as a dash."""
    drawn = PrettyTable(list(headings))
    drawn.add_rows([[_format(value) for value in row] for row in rows])
    return drawn.get_string()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _format(value: Any) -> str:
    if not isinstance(value, float):
        return '-' if value is None else str(value)
    return '-' if math.isnan(value) else f'{value:.4g}'
