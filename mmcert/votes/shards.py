"""Shards: independent jobs that certify a data set together, with one votes folder between them.

A job knows only its own shard. It leaves a manifest in the folder ``shards`` beside the votes: at
first which images the shard has, at the end which certificates they got. ``merging.Merger`` reads
the manifests and the votes, and says what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmcert.files import write_json
from mmcert.votes.store import ELSEWHERE, FingerprintError, differences, fingerprint

FOLDER = 'shards'
"""The folder of the manifests, in that of the votes."""


class ManifestError(ValueError):
    """A manifest that cannot be read."""


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th image of a data set, the ``index``-th of each ``count`` (from 1).

    >>> shard = Shard.parse('3/16')
    >>> list(shard.positions(40)), str(shard)
    ([2, 18, 34], '3/16')
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: Any) -> Shard:
        """Reads ``'i/m'``.

        Raises:
            ValueError: If it is anything else, or i is not one of 1, ..., m.
        """
        match = re.fullmatch(r'(\d+)/(\d+)', text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"shard must be text such as '3/16' (the third of each 16 images), got {text!r}"
            )
        shard = cls(*map(int, match.groups()))
        if not 1 <= shard.index <= shard.count:
            raise ValueError(f"shard 'i/m' counts from 1: i must lie between 1 and m, got {text!r}")
        return shard

    def __str__(self) -> str:
        """As in a config."""
        return f'{self.index}/{self.count}'

    @property
    def file_name(self) -> str:
        """The shard in the name of a file."""
        return f'{self.index}-of-{self.count}'

    def positions(self, total: int) -> range:
        """Its positions among ``total`` images, from 0.

        Raises:
            ValueError: If a data set of this size leaves one of the shards empty.
        """
        if self.count > total:
            raise ValueError(
                f'{self.count} shards of {total} images: some would be empty, so use at most '
                f'{total} shards'
            )
        return range(self.index - 1, total, self.count)


@dataclass(frozen=True)
class Manifest:
    """What a shard should hold and, once its job has finished, what it holds.

    Attributes:
        shard (Shard): The shard.
        total (int): Images of the data set.
        dataset (str): Digest of the names of all its image files, in order.
        sources (Sequence[str]): Names of the image files of the shard, without folder and ending,
            in order; empty text where the data set does not tell.
        sampling (Mapping): What determines the votes, as in a ``VotesStore``.
        settings (Mapping): The ``CertifySettings``, as JSON values; empty for an enumeration.
        task (Mapping): ``num_classes``, ``classes`` (their names), ``ignore_index``, a digest of
            the ``file_sizes`` where they are known, and the ``attack`` where there is one.
        images (Sequence[Mapping] | None): ``name`` and ``certificate`` of each image, in order;
            None until the job has finished.
    """

    shard: Shard
    total: int
    dataset: str
    sources: Sequence[str]
    sampling: Mapping[str, Any]
    settings: Mapping[str, Any]
    task: Mapping[str, Any]
    images: Sequence[Mapping[str, Any]] | None = None

    @classmethod
    def of(cls, shard: Shard, sources: Sequence[str], **fields: Any) -> Manifest:
        """The manifest of a shard, from the names of all image files of the data set."""
        total = len(sources)
        mine = [sources[position] for position in shard.positions(total)]
        return cls(shard, total, dataset_digest(sources), mine, **json.loads(json.dumps(fields)))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            ManifestError: If the file is damaged; the message names it.
        """
        try:
            values = json.loads(path.read_text())
            manifest = cls(**{**values, 'shard': Shard.parse(values['shard'])})
            manifest._check()
            return manifest
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(
                f'{path}: cannot be read ({error}); delete it and run that shard again'
            ) from error

    def _check(self) -> None:
        """Refuses what no job writes."""
        if len(self.sources) != len(self.shard.positions(self.total)):
            raise ValueError(f'it has {len(self.sources)} images of {self.total}')
        mappings = self.sampling, self.settings, self.task
        if not (set(map(type, mappings)) == {dict} and {str}.issuperset(map(type, self.sources))):
            raise TypeError('a value is of another type')
        needed = ['input', 'certified', 'component_type', 'model']
        # An enumeration has neither settings nor thresholds.
        needed += ['tau'] * bool(self.settings)
        for fields, keys in (
            (self.task, ('num_classes', 'classes', 'ignore_index')),
            *(
                (image['certificate'], needed)
                for image in self.images or ()
                if isinstance(image['name'], str)
            ),
        ):
            if lacking := [key for key in keys if key not in fields]:
                raise ValueError(f'it lacks {lacking[0]}')

    def agreement(self) -> str:
        """What the manifests of all shards must agree in, as text."""
        shared = self.total, self.dataset, self.sampling, self.settings, self.task
        return json.dumps(shared, sort_keys=True)

    def begin(self, folder: str | os.PathLike[str], write: bool = True) -> None:
        """Announces the shard in a votes folder, unless it has finished there already.

        Args:
            folder (str | os.PathLike): The votes folder.
            write (bool): Whether to write the manifest; of several processes one does.

        Raises:
            FingerprintError: If another shard there is sampled otherwise; nothing is written.
        """
        for path in manifest_paths(folder):
            try:
                other = Manifest.read(path)
            except ManifestError:
                continue
            if fingerprint(other.sampling) != fingerprint(self.sampling):
                raise FingerprintError(
                    f'{path}: shard {other.shard} is sampled otherwise '
                    f'({differences(other.sampling, self.sampling)}). Nothing was overwritten: '
                    f'{ELSEWHERE}.'
                )
            if replace(other, images=None) == self:
                write = False
        if write:
            self._write(folder)

    def finish(
        self, folder: str | os.PathLike[str], images: Sequence[tuple[str, dict[str, Any]]]
    ) -> None:
        """Records what the shard holds: ``images`` has the name and certificate of each."""
        rows = [{'name': name, 'certificate': certificate} for name, certificate in images]
        replace(self, images=rows)._write(folder)

    def _write(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder) / FOLDER / f'{self.shard.file_name}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**asdict(self), 'shard': str(self.shard)})


def dataset_digest(sources: Sequence[str]) -> str:
    """A digest of the names of all image files of a data set, in order."""
    return hashlib.blake2b('\n'.join(sources).encode(), digest_size=8).hexdigest()


def manifest_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The manifests of a votes folder."""
    return sorted((Path(folder) / FOLDER).glob('*.json'))
