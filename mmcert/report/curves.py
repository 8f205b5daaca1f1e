"""Curves of certified accuracy over the radius."""

import os
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby
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

    for line, group in groupby(sorted(rows, key=line_of), key=line_of):
        procedure, selection, alpha = line
        points = sorted(group, key=lambda row: row['radius'])
        radii = [row['radius'] for row in points]
        joint = procedure == JOINT
        valid = 'all radii at once' if joint else f'{procedure}, each radius by itself'
        # What holds at one radius holds at all smaller ones, and says nothing of larger ones.
        look: dict[str, Any] = {'drawstyle': 'steps-pre', 'linewidth': 2.5 if joint else 1.2}
        for rate, name, style in (('certAcc', 'accuracy', '-'), ('mIoU', 'mIoU', '--')):
            label = f'{name}: {valid} ({selection}, alpha={alpha:g})'
            values = [row[rate] for row in points]
            (drawn,) = axes.plot(radii, values, style, label=label, **look)
            look['color'] = drawn.get_color()
    for label, value in references.items():
        axes.axhline(value, color='grey', linewidth=0.8, linestyle=':')
        place: dict[str, Any] = {'ha': 'right', 'va': 'bottom' if value < 0.9 else 'top'}
        place['xycoords'] = ('axes fraction', 'data')
        axes.annotate(label, (0.99, value), fontsize='small', **place)
    axes.set_xlabel(f'certified {radius}')
    axes.set_ylabel('certified rate')
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    figure.legend(loc='outside lower center', ncols=2, fontsize='x-small')
    title = f'per {word}, with confidence 1 - alpha; perturbations of {space}'
    axes.set_title('\n'.join(textwrap.wrap(title, 85)), fontsize=9)
    with atomic_writer(Path(path)) as file:
        figure.savefig(file, dpi=130, format='png')
