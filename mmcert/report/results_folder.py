"""Reads back what a run left in its folder: summary, certificates, maps and votes."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcert.votes import VotesRecord, load_votes, votes_folder
from mmcert.votes.record import array_digest, votes_digests

OLDER = (
    'was written by an older version of mmcert; certify again, by the same command: it finds the '
    'votes and needs no new draws'
)


def read_certificate(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The certificate of one image: a document in groups, see ``mmcert.certifier.document``.

    Raises:
        ValueError: If an older version wrote it.
    """
    document = json.loads(Path(path).read_text())
    if 'digest' not in document:
        raise ValueError(f'{path} {OLDER}')
    return document


@dataclass(frozen=True, eq=False)
class StoredResult:
    """What a run left of one image or cloud.

    Attributes:
        rates (Mapping): Its line of ``images.jsonl``: ``name`` and rates.
        certificate (Mapping): Its certificate, a document in groups.
        labels (np.ndarray): Certified classes, ``ABSTAIN_LABEL`` for abstentions, shape (H, W), or
            (N,) of a cloud.
        maps (Mapping): Further maps of that shape: ``radius``, with a hierarchy ``level`` and
            ``groups1``, ``groups2``, ...
        record (VotesRecord | None): Its votes, if they were kept.
    """

    rates: Mapping[str, Any]
    certificate: Mapping[str, Any]
    labels: NDArray[np.uint8]
    maps: Mapping[str, NDArray[Any]]
    record: VotesRecord | None

    @property
    def name(self) -> str:
        """Its name in all files."""
        return self.rates['name']


class ResultsFolder:
    """The results of a run on images or clouds, as ``tools/test.py`` writes them.

    ``summary`` is the content of ``summary.json``, and ``lines`` that of ``images.jsonl``.

    Args:
        folder (str | os.PathLike): The folder ``certified`` of the run.
        votes (str | os.PathLike | None): Folder of the votes; None looks for the one in ``folder``.

    Raises:
        FileNotFoundError: If there are no results in the folder, or no such folder of votes.
        ValueError: If an older version wrote them.
    """

    def __init__(
        self, folder: str | os.PathLike[str], votes: str | os.PathLike[str] | None = None
    ) -> None:
        self.folder = Path(folder)
        self._votes = None if votes is None else votes_folder(votes)
        for name in ('summary.json', 'images.jsonl'):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(f'there is no {name} in {self.folder}{_hint(self.folder)}')
        self.summary: dict[str, Any] = json.loads((self.folder / 'summary.json').read_text())
        if 'input_type' not in self.summary['certificate']:
            raise ValueError(f'{self.folder} {OLDER}')
        lines = (self.folder / 'images.jsonl').read_text().splitlines()
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]

    @property
    def title(self) -> str:
        """The last two words of its path, wherever it was given from, but no user's name."""
        folder = self.folder.resolve()
        is_below_home = folder.parent == Path.home().resolve()
        return folder.name if is_below_home else '/'.join(folder.parts[1:][-2:])

    @property
    def word(self) -> str:
        """What the inputs are: 'image' or 'cloud'."""
        return self.summary['certificate']['input_type']

    @cached_property
    def certificates(self) -> Path:
        """The folder of the certificates that the summary is of."""
        name, shared = self.lines[0]['name'], self.summary['certificate']
        fitting = []
        for folder in sorted(self.folder.glob('certificates-*')):
            if (folder / f'{name}.json').is_file():
                document = read_certificate(folder / f'{name}.json')
                found = {'weights': document['model']['base'].get('weights')}
                for group in document.values():
                    found |= group if isinstance(group, dict) else {}
                facts = {**shared, 'weights': shared['model'].get('weights')}
                if all(found.get(key, value) == value for key, value in facts.items()):
                    fitting.append(folder)
        return _only(fitting, f'certificates of {self.folder / "summary.json"}')

    @cached_property
    def votes_folder(self) -> Path | None:
        """The folder of the votes that the certificates follow from; None if none were kept."""
        name = self.lines[0]['name']
        certificate = read_certificate(self.certificates / f'{name}.json')
        if self._votes is not None:
            return self._votes
        fitting = [
            folder
            for folder in sorted(self.folder.glob('votes-*'))
            if (folder / f'{name}.npz').is_file()
            and _belongs(load_votes(folder / f'{name}.npz'), certificate)
        ]
        return _only(fitting, 'votes of these certificates (give one by --votes)', none=True)

    def image(self, rates: Mapping[str, Any]) -> StoredResult:
        """The image or cloud of one of the ``lines``.

        Raises:
            FileNotFoundError: If its certificate is not there.
            ValueError: If its map or its votes are not those of the certificate, by their digests.
        """
        file = self.certificates / f'{rates["name"]}.json'
        certificate = read_certificate(file)
        maps: dict[str, NDArray[Any]] = {}
        if file.with_suffix('.npz').is_file():
            with np.load(file.with_suffix('.npz'), allow_pickle=False) as stored:
                maps = dict(stored)
        labels = maps.pop('labels', None)
        if labels is None:
            labels = cv2.imread(str(file.with_suffix('.png')), cv2.IMREAD_UNCHANGED)
        if labels is None:
            raise FileNotFoundError(f'cannot read {file.with_suffix(".png")}')
        parts = certificate['digest']['parts']
        for key, array in {'labels': labels, **maps}.items():
            if array_digest(array) != parts.get(f'maps {key}'):
                raise ValueError(f'the map of {key} beside {file} is not that of the certificate')
        record = None
        if self.votes_folder is not None:
            path = self.votes_folder / f'{file.stem}.npz'
            record = load_votes(path)
            if not _belongs(record, certificate):
                raise ValueError(f'{path} is not what the certificate {file} follows from')
        return StoredResult(rates, certificate, labels.astype(np.uint8), maps, record)


def require_same_model(folder: Path, summary: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Refuses what was found of another model than the certificates, or beside other noise.

    Args:
        folder (Path): Where it was found, for the message.
        summary (Mapping): Its ``identity`` and, in ``settings``, its ``guarantee``.
        shared (Mapping): The entries that all certificates share.

    Raises:
        ValueError: If it does not belong to the certificates.
    """
    guarantee = summary['settings'].get('guarantee') or {}
    for what, theirs, ours in (
        ('weights', summary['identity'].get('weights'), shared['model'].get('weights')),
        ('perturbation', guarantee.get('perturbation'), shared.get('perturbation')),
        ('parameters', guarantee.get('parameters'), shared.get('parameters')),
    ):
        if ours is not None and theirs != ours:
            raise ValueError(
                f'what is in {folder} is not of these results: it has {what} {theirs}, and the '
                f'certificates {ours}'
            )


def _hint(folder: Path) -> str:
    """What to do where a folder has no summary."""
    if any(folder.glob('shard-*/summary.json')):
        return f': once all shards have run, mmcert merge {folder}'
    if (folder / 'certified/summary.json').is_file():
        return f': did you mean {folder / "certified"}?'
    return '; give a folder of results, for example work_dirs/NAME/certified'


def _belongs(record: VotesRecord, certificate: Mapping[str, Any]) -> bool:
    """Whether a certificate follows from votes, by the digests in it."""
    parts = certificate['digest']['parts']
    return all(
        parts.get(f'votes {name}') == digest for name, digest in votes_digests(record).items()
    )


def _only(fitting: list[Path], what: str, none: bool = False) -> Any:
    """The only folder that fits."""
    if len(fitting) == 1:
        return fitting[0]
    if none and not fitting:
        return None
    found = ', '.join(map(str, fitting)) or 'none'
    raise ValueError(f'there must be one folder with the {what}; found: {found}')
