"""A folder of votes files: what one run on a data set has sampled so far."""

import contextlib
import hashlib
import json
import os
import textwrap
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.files import atomic_writer, remove_leftovers, require_writable
from mmcert.votes.record import VotesFileError, VotesRecord, load_votes, save_votes

ELSEWHERE = 'give another folder for the votes (in a config: `smoothing.votes_dir`)'


class FingerprintError(ValueError):
    """Votes on disk that were sampled in another way than this run samples."""


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A digest of what determines the votes, given as JSON values: 16 hexadecimal digits."""
    text = json.dumps(fields, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Which settings differ, for a message."""
    return '; '.join(
        f'{key}: {_sorted(theirs.get(key))!r} there, {_sorted(ours.get(key))!r} here'
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    )


def _sorted(value: Any) -> Any:
    """The same with the keys of a mapping in order, so that two can be compared by eye."""
    return dict(sorted(value.items())) if isinstance(value, Mapping) else value


class VotesStore:
    """Votes files of one run, one per image.

    >>> import tempfile
    >>> import numpy as np
    >>> from mmcert.certify import Votes
    >>> votes = Votes(guess=np.array([3, 1]), hits=np.array([99, 50]), n=100, n0=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = VotesStore(folder, sampling={'sigma': 0.25, 'seed': 0})
    ...     store.put('street-1', VotesRecord(votes, meta={}))
    ...     store.get('street-1').votes.n, store.get('street-2')
    (100, None)

    Args:
        folder (str | os.PathLike): Where the files are; made with the first of them.
        sampling (Mapping): What determines the votes, as JSON values; its ``fingerprint`` is
            written into each file, and files with another one are refused.
        provenance (Mapping | None): Further facts for the files, outside the fingerprint.

    Raises:
        OSError: If the folder cannot be made or written; the message says what to do.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        sampling: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.sampling = dict(sampling)
        self.provenance = dict(provenance or {})
        self.fingerprint = fingerprint(sampling)
        try:
            require_writable(self.folder)
        except OSError as error:
            raise OSError(
                f'the votes folder {self.folder} cannot be written ({error}); {ELSEWHERE}, or None '
                'to keep no votes'
            ) from error
        remove_leftovers(self.folder)

    def path(self, name: str) -> Path:
        """The file of the image ``name``."""
        return self.folder / f'{name}.npz'

    def get(self, name: str) -> VotesRecord | None:
        """The votes that an earlier run stored of an image; None if there are none.

        Raises:
            VotesFileError: If the file is damaged.
            FingerprintError: If it was sampled in another way; the message says what differs.
        """
        try:
            record = load_votes(self.path(name))
        except FileNotFoundError:
            return None
        if record.meta.get('fingerprint') != self.fingerprint:
            theirs = record.meta.get('sampling', {})
            old = 'scheme' in theirs and theirs['scheme'] != self.sampling.get('scheme')
            raise FingerprintError(
                f'{self.path(name)} holds votes that were sampled otherwise '
                f'({differences(theirs, self.sampling)}). Nothing was overwritten: {ELSEWHERE}.'
                + ' (The scheme is how draws are made: votes of another one must be sampled anew.)'
                * old
            )
        return record

    def require(self, spec: Mapping[str, Any]) -> None:
        """Refuses to serve a plan of another ``spec`` than the one in the fingerprint."""
        if differing := differences({key: self.sampling.get(key) for key in spec}, spec):
            raise FingerprintError(
                f'the votes store of {self.folder} is that of another plan ({differing}): open one '
                'for this plan, in another folder, with plan.open_store'
            )

    def put(self, name: str, record: VotesRecord, *, keep_checkpoint: bool = False) -> None:
        """Stores the votes of an image, with the run's fingerprint and provenance.

        ``name`` must be a legal file name; the record's ``meta`` holds facts about this image.
        """
        meta = {
            **record.meta,
            'name': name,
            'fingerprint': self.fingerprint,
            'sampling': self.sampling,
            'provenance': self.provenance,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        save_votes(self.path(name), replace(record, meta=meta))
        if not keep_checkpoint:
            self.drop_checkpoint(name)

    def put_checkpoint(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Stores an image's counts while it is under way, in place of the ones stored before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = np.frombuffer(self.fingerprint.encode(), dtype=np.uint8)
        with atomic_writer(self._checkpoint_path(name)) as file:
            np.savez(file, _fingerprint=mark, **arrays)  # type: ignore[arg-type]

    def get_checkpoint(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What ``put_checkpoint`` stored of an image; None if there is nothing of use.

        Raises:
            FingerprintError: If they were sampled in another way.
        """
        try:
            with np.load(self._checkpoint_path(name), allow_pickle=False) as data:
                arrays = dict(data)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
            return None
        mark = arrays.pop('_fingerprint', np.empty(0, dtype=np.uint8))
        if mark.tobytes().decode() != self.fingerprint:
            raise FingerprintError(
                f'{self._checkpoint_path(name)} holds an image that was begun with another '
                f'sampling. Nothing was overwritten: {ELSEWHERE}, or delete that file.'
            )
        return arrays

    def drop_checkpoint(self, name: str) -> None:
        """Removes what ``put_checkpoint`` stored, if it is there."""
        self._checkpoint_path(name).unlink(missing_ok=True)

    def _checkpoint_path(self, name: str) -> Path:
        return self.folder / f'{name}.part'


def votes_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder of votes that is meant: the one that is given, or the only one in given results.

    Args:
        folder (str | os.PathLike): A folder of votes files, or of results with a folder ``votes-*``
            in it.

    Raises:
        FileNotFoundError: If there is no such folder, or there are no votes files.
        ValueError: If there are several folders of votes in it; the message lists them, with the
            settings that differ.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {folder}')
    if any(folder.glob('*.npz')):
        return folder
    inside = [path for path in sorted(folder.glob('votes-*')) if any(path.glob('*.npz'))]
    if not inside:
        hint = 'give a folder votes-*, or results with one in it'
        if any(folder.glob('certified/votes-*/*.npz')):
            hint = f'did you mean {folder / "certified"}?'
        raise FileNotFoundError(f'no votes files (*.npz) in {folder}: {hint}')
    if len(inside) > 1:
        raise ValueError(
            f'there are several folders of votes in {folder}, give one of them: '
            f'{", ".join(_told_apart(inside))}'
        )
    return inside[0]


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """Each folder, with what its votes were sampled with and not all others were."""
    settings: list[Mapping[str, Any]] = []
    for folder in folders:
        settings.append({})
        with contextlib.suppress(VotesFileError, StopIteration):
            settings[-1] = load_votes(next(folder.glob('*.npz'))).meta.get('sampling', {})
    told = []
    for folder, own in zip(folders, settings, strict=True):
        differing = [key for key in sorted(own) if any(own[key] != s.get(key) for s in settings)]
        values = ', '.join(f'{key} {textwrap.shorten(str(own[key]), 60)}' for key in differing)
        told.append(f'{folder} ({values})' if values else str(folder))
    return told


def read_folder(folder: str | os.PathLike[str]) -> Iterator[VotesRecord]:
    """Reads all votes files of a folder, in the order of their names.

    Args:
        folder (str | os.PathLike): See ``votes_folder``.

    Raises:
        FileNotFoundError: If there is no such folder or it holds no votes files.
        ValueError: If it is one of results with several folders of votes.
        VotesFileError: If a file is damaged.
        FingerprintError: If files of different runs lie in it.
    """
    expected: str | None = None
    for file in sorted(votes_folder(folder).glob('*.npz')):
        record = load_votes(file)
        found = record.meta.get('fingerprint')
        if not isinstance(found, str):
            raise VotesFileError(f'{file} does not say how its votes were sampled')
        if expected not in (None, found):
            raise FingerprintError(
                f'{file} was sampled in another way than the files before it; keep one run per '
                'folder'
            )
        expected = found
        yield record
