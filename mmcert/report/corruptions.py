"""Tables and curves of accuracy under common corruptions."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.files import atomic_writer
from mmcert.metrics.counts import intersection_and_union, iou, mean_of_present, ratio
from mmcert.metrics.worst_case import worst_mean_iou
from mmcert.report.tables import UNLABELLED, text_table

Confusion = NDArray[np.int64]
"""Ground truth by prediction, (C, C + 1), the last column for abstentions."""

COUNTED_OF_NOISE = 3
"""Severities of corruptions by noise that count in means: up to this one."""


def rates_of(confusion: Confusion) -> dict[str, float]:
    """Accuracy and mIoU of labelled components.

    >>> rates_of(np.array([[3, 1, 0], [0, 4, 0]]))
    {'accuracy': 0.875, 'mIoU': 0.775}
    """
    return {
        'accuracy': ratio(np.trace(confusion), confusion.sum()),
        'mIoU': mean_of_present(iou(*intersection_and_union(confusion))),
    }


def bounds_of(confusion: Confusion) -> dict[str, float]:
    """Lower bounds of accuracy and mIoU, whatever the classes are where nothing is certified.

    >>> bounds_of(np.array([[6, 1, 3], [0, 5, 2]]))['accuracy']
    0.6470588235294118
    """
    least = worst_mean_iou(confusion) if len(confusion) > 1 else float('nan')
    return {'accuracy': ratio(np.trace(confusion), confusion.sum()), 'mIoU': least}


def mean_rates(
    rates: Mapping[int, Mapping[str, float]], clean: Mapping[str, float], category: str
) -> dict[str, Any]:
    """The mean over severities, as the SegFormer paper reports it, and the relative drop.

    Of corruptions of the category 'noise' the first three severities count, of others all (Kamann
    and Rother, "Benchmarking the robustness of semantic segmentation models", CVPR 2020, whose
    protocol SegFormer, NeurIPS 2021, follows). The relative drop of the mIoU is 1 - (mean mIoU) /
    (clean mIoU): 0 where nothing is lost, 1 where all is, negative where the corruption helps.

    >>> found = mean_rates({1: {'accuracy': 0.9, 'mIoU': 0.6}, 5: {'accuracy': 0.5, 'mIoU': 0.2}},
    ...                    {'accuracy': 1.0, 'mIoU': 0.8}, 'noise')
    >>> found['severities'], found['mIoU'], round(found['drop'], 2)
    ([1], 0.6, 0.25)

    Args:
        rates (Mapping): Rates by severity.
        clean (Mapping): Those of the clean inputs.
        category (str): Of the corruption.

    Returns:
        dict: ``severities`` that count, ``accuracy``, ``mIoU`` and ``drop``, NaN where none counts.
    """
    counted = [s for s in sorted(rates) if category != 'noise' or s <= COUNTED_OF_NOISE]
    found: dict[str, Any] = {'severities': counted}
    for key in ('accuracy', 'mIoU'):
        found[key] = ratio(sum(rates[s][key] for s in counted), len(counted))
    found['drop'] = 1 - ratio(found['mIoU'], clean['mIoU'])
    return found


def overall(corruptions: Sequence[Mapping[str, Any]], model: str) -> dict[str, float]:
    """The mean of a model's means over corruptions; those of which no severity counts are left out.

    Args:
        corruptions (Sequence[Mapping]): As in the summary of ``tools/corruptions.py``.
        model (str): The model.

    Returns:
        dict: ``accuracy``, ``mIoU`` and ``drop``.
    """
    means = [found['mean'][model] for found in corruptions if found['mean'][model]['severities']]
    return {
        key: ratio(sum(mean[key] for mean in means), len(means))
        for key in ('accuracy', 'mIoU', 'drop')
    }


def is_labelled(summary: Mapping[str, Any]) -> bool:
    """Whether any component has ground truth; otherwise a summary has no rates."""
    means = [rates['mIoU'] for rates in summary['clean'].values()]
    return any(mean is not None and not np.isnan(mean) for mean in means)


def corruption_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows of the table: the mIoU of each corruption and model at each severity.

    A row for a bound follows where a certificate covers something. Values are numbers, names or
    None.
    """
    severities = summary['settings']['severities']
    headings = ['corruption', 'model', 'clean', *map(str, severities), 'mean', 'relative drop']
    rows: list[list[Any]] = []
    for found in summary['corruptions']:
        by_severity = {entry['severity']: entry for entry in found['severities']}
        for model in summary['models']:
            mean = found['mean'][model]
            rows.append(
                [
                    found['corruption'], model, summary['clean'][model]['mIoU'],
                    *(by_severity[s]['rates'][model]['mIoU'] for s in severities),
                    mean['mIoU'], _four_decimals(mean['drop']),
                ]
            )  # fmt: skip
        bounds = [by_severity[s]['certified'] for s in severities]
        if any(bounds):
            values = [bound and bound['mIoU'] for bound in bounds]
            what = f'{summary["bounded"]}, at least'
            rows.append([found['corruption'], what, None, *values, None, None])
    for model in summary['models']:
        mean = summary['mean'][model]
        blank = [None] * len(severities)
        clean = summary['clean'][model]['mIoU']
        rows.append(['all', model, clean, *blank, mean['mIoU'], _four_decimals(mean['drop'])])
    return headings, rows


def _four_decimals(value: float | None) -> float | None:
    """A difference, without digits that nobody could see; never -0."""
    return None if value is None else round(value, 4) + 0.0


def corruption_table(summary: Mapping[str, Any]) -> str:
    """``corruption_rows`` as text; without labels, a sentence that says so."""
    return text_table(*corruption_rows(summary)) if is_labelled(summary) else UNLABELLED


def corruption_page(summary: Mapping[str, Any], notes: Iterable[str]) -> str:
    """``corruption_rows`` in Markdown, below what they mean.

    Args:
        summary (Mapping): As ``tools/corruptions.py`` writes it.
        notes (Iterable[str]): Paragraphs.
    """
    headings, rows = corruption_rows(summary)
    lines = ['# mIoU under corruptions', '']
    for note in notes:
        lines += [note, '']
    if not is_labelled(summary):
        return '\n'.join([*lines, UNLABELLED, ''])
    lines += ['| ' + ' | '.join(headings) + ' |', '|' + ' --- |' * len(headings)]
    lines += ['| ' + ' | '.join(map(_shown, row)) + ' |' for row in rows]
    return '\n'.join(lines) + '\n'


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return '-' if value is None or value != value else f'{value:.3f}'


COLOURS = {'base': '#0072b2', 'smoothed': '#d55e00', 'denoised': '#009e73'}
"""Of the models, told apart by colour-blind readers as well."""

MARKERS = {'base': 'o', 'smoothed': 's', 'denoised': 'D'}

ACROSS = 4
"""Curves in a row."""


def plot_corruptions(summary: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws the mIoU of each model over the severity, a small curve for each corruption.

    Severity 0 is the clean input. Bounds are drawn at the severities at which a certificate covers
    something.

    Args:
        summary (Mapping): As ``tools/corruptions.py`` writes it.
        path (str | os.PathLike): PNG file to write.
    """
    from matplotlib.figure import Figure

    corruptions = summary['corruptions']
    down = -(-len(corruptions) // ACROSS)
    across = min(len(corruptions), ACROSS)
    figure = Figure(figsize=(0.6 + 2.3 * across, 1.0 + 1.9 * down), layout='constrained')
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for place, found in zip(axes.flat, corruptions, strict=False):
        _draw_curves(place, summary, found, handles)
    for place, above in zip(axes.flat, [None] * across + list(axes.flat), strict=False):
        if not place.lines:
            place.set_visible(False)
            above.tick_params(labelbottom=True)
    severities = summary['settings']['severities']
    axes.flat[0].set_xticks([0, *severities], ['clean', *map(str, severities)])
    drawn = np.concatenate([line.get_ydata() for place in axes.flat for line in place.lines])
    highest = drawn[~np.isnan(drawn)].max(initial=0.0)
    axes.flat[0].set_ylim(0, min(1.2 * highest, 1) or 1)
    figure.supylabel('mIoU by severity', fontsize=9)
    figure.legend(
        handles.values(), handles.keys(), loc='outside lower center', ncols=len(handles), fontsize=8
    )
    with atomic_writer(Path(path)) as file:
        figure.savefig(file, dpi=130, format='png')


def _draw_curves(
    axes: Any, summary: Mapping[str, Any], found: Mapping[str, Any], handles: dict[str, Any]
) -> None:
    """The curves of one corruption; their handles for the legend go to ``handles``."""
    axes.set_title(found['corruption'].replace('_', ' '), fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    entries = found['severities']
    at = [entry['severity'] for entry in entries]
    for model in summary['models']:
        values = [entry['rates'][model]['mIoU'] for entry in entries]
        (handles[model],) = axes.plot(
            [0, *at], [summary['clean'][model]['mIoU'], *values], marker=MARKERS[model],
            markersize=3, linewidth=1.2, color=COLOURS[model],
        )  # fmt: skip
    # Where nothing is covered the line is broken: it says nothing of what lies between.
    bounds = [(entry['certified'] or {}).get('mIoU', float('nan')) for entry in entries]
    if any(entry['certified'] for entry in entries):
        model = summary['bounded']
        (handles[f'{model}, certified lower bound'],) = axes.plot(
            at, bounds, linestyle=':', linewidth=1.2, marker='^', markersize=5,
            color=COLOURS[model], markerfacecolor='none',
        )  # fmt: skip
