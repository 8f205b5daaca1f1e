"""Curves of certified accuracy over the radius."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from mmcert.certify.votes import atomic_writer

RATES = {'certAcc': 'accuracy', 'mIoU': 'mIoU'}


def plot_radius_curve(
    rows: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    references: Mapping[str, float],
    space: str,
) -> None:
    """Draws certified accuracy and mIoU over the radius, one line per alpha and procedure.

    Every point is a result for one tau, valid by itself; the picture says so. A statement about
    all points of a line together would need simultaneous bounds.

    Args:
        rows (Iterable[Mapping]): The terms and rates of each point: ``radius``, ``certAcc``,
            ``mIoU``, ``alpha``, ``procedure``.
        path (str | os.PathLike): PNG file to write.
        references (Mapping): Rates to draw as horizontal lines, by their label.
        space (str): Where the perturbations live, in words.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.add_subplot()

    def line_of(row: Mapping[str, Any]) -> tuple[float, str]:
        return row['alpha'], row['procedure']

    for (alpha, procedure), group in groupby(sorted(rows, key=line_of), key=line_of):
        points = sorted(group, key=lambda row: row['radius'])
        radii = [row['radius'] for row in points]
        label = f'{procedure}, alpha={alpha:g}'
        color = None
        for rate, style in (('certAcc', '-'), ('mIoU', '--')):
            values = [row[rate] for row in points]
            # What holds at one radius holds at all smaller ones, and says nothing of larger ones.
            (line,) = axes.plot(
                radii,
                values,
                style,
                color=color,
                drawstyle='steps-pre',
                label=f'{RATES[rate]} ({label})',
            )
            color = line.get_color()
    for label, value in references.items():
        axes.axhline(value, color='grey', linewidth=0.8, linestyle=':')
        axes.annotate(
            label,
            (0.99, value),
            xycoords=('axes fraction', 'data'),
            ha='right',
            va='bottom' if value < 0.9 else 'top',
            fontsize='small',
        )
    axes.set_xlabel('certified l2 radius, [0, 1] image units')
    axes.set_ylabel('certified rate')
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.legend(loc='lower left', fontsize='small')
    title = f'valid point by point, each radius by itself; perturbations of {space}'
    axes.set_title('\n'.join(textwrap.wrap(title, 85)), fontsize=9)
    with atomic_writer(Path(path)) as file:
        figure.savefig(file, dpi=130, format='png')
