"""Curves of certified accuracy over the radius."""

import os
import textwrap
from collections.abc import Iterable, Mapping
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

from mmcert.files import atomic_writer

JOINT = 'joint'
"""In place of a procedure: the points that are valid all at once."""


def plot_radius_curve(
    rows: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    references: Mapping[str, float],
    space: str,
    radius: str = 'l2 radius, [0, 1] image units',
    word: str = 'image',
) -> None:
    """Draws certified accuracy and mIoU over the radius, one line per alpha, procedure, selection.

    A procedure's points are results for one tau each, valid by themselves; those of the procedure
    ``JOINT`` come from simultaneous bounds and are valid all at once. The picture says which is
    which.

    Args:
        rows (Iterable[Mapping]): The settings and rates of each point: ``radius``, ``certAcc``,
            ``mIoU``, ``alpha``, ``procedure``, ``selection``.
        path (str | os.PathLike): PNG file to write.
        references (Mapping): Rates to draw as horizontal lines, by their label.
        space (str): Where the perturbations live, in words.
        radius (str): Norm and unit of the radius, in words.
        word (str): What an input is called.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout='constrained')
    axes = figure.add_subplot()

    def line_of(row: Mapping[str, Any]) -> tuple[str, str, float]:
        return row['procedure'], row['selection'], row['alpha']

    lines = [(*line, list(group)) for line, group in groupby(sorted(rows, key=line_of), line_of)]
    for index, (procedure, selection, alpha, group) in enumerate(lines):
        points = sorted(group, key=lambda row: row['radius'])
        radii = [row['radius'] for row in points]
        each = f'{procedure}, each radius by itself'
        valid = 'all radii at once' if procedure == JOINT else each
        # What holds at one radius holds at all smaller ones, and says nothing of larger ones.
        look: dict[str, Any] = {'drawstyle': 'steps-pre'}
        # The first ones are wide, so that they show below others of the same values.
        look['linewidth'] = 1.2 + 2.4 * (len(lines) - 1 - index) / max(len(lines) - 1, 1)
        for rate, name, style in (('certAcc', 'accuracy', '-'), ('mIoU', 'mIoU', '--')):
            label = f'{name}: {valid} ({selection}, alpha={alpha:g})'
            values = [row[rate] for row in points]
            (drawn,) = axes.plot(radii, values, style, label=label, **look)
            look['color'] = drawn.get_color()
    for (label, value), style in zip(references.items(), cycle((':', '-.')), strict=False):
        axes.axhline(value, color='grey', linewidth=0.8, linestyle=style, label=label)
    axes.set_xlabel(f'certified {radius}')
    axes.set_ylabel('certified rate')
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    figure.legend(loc='outside lower center', ncols=2, fontsize='x-small')
    title = f'per {word}, with confidence 1 - alpha; perturbations of {space}'
    axes.set_title('\n'.join(textwrap.wrap(title, 85)), fontsize=9)
    with atomic_writer(Path(path)) as file:
        figure.savefig(file, dpi=130, format='png')
