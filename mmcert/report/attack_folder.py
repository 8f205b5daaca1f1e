"""Reads what ``tools/attack.py`` left in its folder."""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.report.attacks import KEPT, MODELS
from mmcert.report.results_folder import StoredResult, require_same_model
from mmcert.report.tables import UNLABELLED

LAYERS = {
    'base_attacked': 'base model, attacked by itself',
    'smoothed_attacked': 'smoothed model, attacked',
    'certified': 'certified map at this radius',
}
"""Maps of an attacked input that a page shows."""

Changes = dict[int, tuple[NDArray[np.int8], float]]
"""What attacks changed of an input, by the number of the attack set: whole steps, and how long a
step is. Of an image (H, W, 3), RGB, of a cloud (N, D), coordinates first."""


class AttackFolder:
    """The attacks on a model, beside its certificates.

    ``summary`` is the content of ``summary.json``.

    Args:
        folder (str | os.PathLike): The folder ``attacks-*`` that ``tools/attack.py`` wrote.

    Raises:
        FileNotFoundError: If there are no attacks in the folder.
        ValueError: If its summary is not one of attacks.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        file = self.folder / 'summary.json'
        if not file.is_file():
            raise FileNotFoundError(
                f'there is no summary.json in {self.folder}; give the folder that mmcert attack '
                'wrote, for example work_dirs/NAME/certified/attacks-0123456789abcdef'
            )
        self.summary: dict[str, Any] = json.loads(file.read_text())
        if 'attack_sets' not in self.summary:
            raise ValueError(
                f'{file} is no summary of attacks; give the folder attacks-* that mmcert attack '
                'wrote'
            )

    @property
    def sets(self) -> list[str]:
        """What the attacks are within, such as ``l2 0.17``: the sets of attacks."""
        return [found['attack_set'] for found in self.summary['attack_sets']]

    @cached_property
    def _files(self) -> dict[tuple[str, str], Path]:
        """The file of each input and set."""
        found = {}
        for file in sorted(self.folder.glob('[0-9]*.json')):
            facts = json.loads(file.read_text())
            found[facts['name'], facts['attack_set']] = file
        return found

    @property
    def names(self) -> set[str]:
        """The inputs that were attacked."""
        return {name for name, _ in self._files}

    def require_of(self, shared: Mapping[str, Any]) -> None:
        """Refuses attacks on another model, or beside another perturbation.

        Args:
            shared (Mapping): The entries that all certificates of the results share.

        Raises:
            ValueError: If they do not belong to the results.
        """
        require_same_model(self.folder, self.summary, shared)

    def maps(self, result: StoredResult) -> dict[str, NDArray[np.uint8]]:
        """The maps of an input under each set of attacks; empty if it was not attacked.

        Returns:
            dict: By ``attack``, the number of the set, ``_`` and a name of ``LAYERS``.

        Raises:
            ValueError: If another input of the name was attacked.
        """
        return {
            f'attack{number}_{model}': arrays[f'map_{model}']
            for number, arrays in self._stored(result)
            for model in LAYERS
        }

    def changes(self, result: StoredResult) -> Changes:
        """What the attacks changed of an input; nothing where that was not stored.

        Raises:
            ValueError: If another input of the name was attacked.
        """
        return {
            number: (arrays['perturbation'], float(arrays['perturbation_step']))
            for number, arrays in self._stored(result)
            if 'perturbation' in arrays
        }

    def _stored(self, result: StoredResult) -> Iterator[tuple[int, Mapping[str, NDArray[Any]]]]:
        """Number and arrays of the sets of attacks on an input."""
        for number, name in enumerate(self.sets):
            file = self._files.get((result.name, name))
            if file is None:
                continue
            if json.loads(file.read_text())['digest'] != result.certificate['input']['digest']:
                raise ValueError(f'{file} is of another input than the certificate {result.name}')
            with np.load(file.with_suffix('.npz'), allow_pickle=False) as arrays:
                yield number, arrays

    def to_dict(self) -> dict[str, Any]:
        """What a page says of all attacks."""
        settings = self.summary['settings']
        keys = ('losses', 'steps', 'restarts', 'schedule', 'judged', 'sure', 'points', 'seed')
        listed = {key: settings[key] for key in keys if settings.get(key) is not None}
        return {
            'inputs': len(self.names),
            'settings': {
                key: ', '.join(value) if isinstance(value, list) else value
                for key, value in listed.items()
            },
            'models': list(MODELS.values()),
            'labelled': any(
                rate['accuracy'] is not None
                for found in self.summary['attack_sets']
                for rate in found['rates'].values()
            ),
            'kept': f'{UNLABELLED[:1].upper()}{UNLABELLED[1:]}; {KEPT}.',
            'sets': [
                {
                    'name': found['attack_set'],
                    'tau': found['tau'],
                    'rows': [
                        (word, [found['rates'][model][key] for model in MODELS])
                        for key, word in (('accuracy', 'accuracy'), ('mIoU', 'mIoU'))
                    ],
                    'attacks': found['attacks'],
                    'doubtful': sum(attack['doubtful'] or 0 for attack in found['attacks']),
                }
                for found in self.summary['attack_sets']
            ],
            'failures': [
                {
                    'input': failure['input'],
                    'attack': failure['attack'],
                    'set': failure['attack_set'],
                    'components': len(failure['components']),
                }
                for failure in self.summary['failures']
            ],
        }
