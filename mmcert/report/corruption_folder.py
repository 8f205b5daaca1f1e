"""Reads what ``tools/corruptions.py`` left in its folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcert.report.corruptions import corruption_rows, is_labelled
from mmcert.report.results_folder import require_same_model

WIDTH, HEIGHT, EDGE = 170, 110, 14
"""Of the picture of one corruption, and what its curves stay away from its edges."""


class CorruptionFolder:
    """The accuracy of a model under corruptions, beside its certificates.

    ``summary`` is the content of ``summary.json``; ``mmcert.runs.corrupting`` has its format.

    Args:
        folder (str | os.PathLike): ``corruptions-*``, as ``tools/corruptions.py`` wrote it.

    Raises:
        FileNotFoundError: If there are no such results in the folder.
        ValueError: If its summary is not one of corruptions.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        file = self.folder / 'summary.json'
        if not file.is_file():
            raise FileNotFoundError(
                f'there is no summary.json in {self.folder}; give the folder that '
                'mmcert corruptions wrote: work_dirs/NAME/certified/corruptions-0123456789abcdef'
            )
        self.summary: dict[str, Any] = json.loads(file.read_text())
        if (self.summary.get('format'), self.summary.get('version')) != ('mmcert corruptions', 1):
            raise ValueError(
                f'{file} is no summary of corruptions that this version reads; give the folder '
                'corruptions-* that mmcert corruptions wrote'
            )

    def require_of(self, shared: Mapping[str, Any]) -> None:
        """Refuses corruptions of another model, or beside another perturbation.

        Args:
            shared (Mapping): The entries that all certificates of the results share.

        Raises:
            ValueError: If they do not belong to the results.
        """
        require_same_model(self.folder, self.summary, shared)

    def to_dict(self) -> dict[str, Any]:
        """What a page says of all corruptions: curves, a table, and what is broken."""
        summary = self.summary
        headings, rows = corruption_rows(summary)
        values = [
            rate['mIoU'] or 0.0
            for found in summary['corruptions']
            for entry in found['severities']
            for rate in entry['rates'].values()
        ]
        values += [rate['mIoU'] or 0.0 for rate in summary['clean'].values()]
        largest = max(values) or 1.0
        return {
            'inputs': summary['settings']['inputs'],
            'labelled': is_labelled(summary),
            'draws': summary['settings'].get('draws'),
            'models': summary['models'],
            'bounded': summary['bounded'],
            'covered': any(
                entry['certified']
                for found in summary['corruptions']
                for entry in found['severities']
            ),
            'severities': summary['settings']['severities'],
            'size': (WIDTH, HEIGHT),
            'largest': largest,
            'curves': [self._curves(found, largest) for found in summary['corruptions']],
            'headings': headings,
            'rows': rows,
            'broken': summary['broken'],
        }

    def _curves(self, found: Mapping[str, Any], largest: float) -> dict[str, Any]:
        """The mIoU of each model over the severity, as places in a picture."""
        last = max(self.summary['settings']['severities'])

        def place(severity: int, value: float | None) -> tuple[float, float]:
            across = EDGE + severity / last * (WIDTH - 2 * EDGE)
            up = (value or 0.0) / largest * (HEIGHT - 2 * EDGE)
            return round(across, 1), round(HEIGHT - EDGE - up, 1)

        lines = {}
        for model in self.summary['models']:
            values = [(0, self.summary['clean'][model]['mIoU'])]
            values += [(e['severity'], e['rates'][model]['mIoU']) for e in found['severities']]
            lines[model] = ' '.join(f'{x},{y}' for x, y in (place(*value) for value in values))
        # Marks, not a line: nothing is said of what lies between.
        bounds = [
            place(entry['severity'], entry['certified']['mIoU'])
            for entry in found['severities']
            if entry['certified']
        ]
        return {'name': found['corruption'].replace('_', ' '), 'lines': lines, 'bounds': bounds}
