"""The votes of one input: everything that its certificates are computed from."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.binomial import check_hits
from mmcert.certify.checks import check_draws

FORMAT = 1
"""Version of the file format written by ``save_votes``."""


class VotesFileError(ValueError):
    """A votes file that cannot be read, or does not hold what it should."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes of the smoothed model on one input (one family).

    The guess must come from the ``n0`` selection draws and the hits from ``n`` further draws, all
    independent; nothing here can check that.

    Attributes:
        guess (np.ndarray): Guess class of each component, any shape, integers >= 0.
        hits (np.ndarray): Estimation draws that agree with the guess, the shape of ``guess``,
            integers in [0, n].
        n (int): Number of estimation draws, at least 1.
        n0 (int): Number of selection draws, at least 1.

    Raises:
        ValueError: If shapes differ or a value is out of range.
    """

    guess: NDArray[np.integer]
    hits: NDArray[np.integer]
    n: int
    n0: int

    def __post_init__(self) -> None:
        """Checks the fields, and turns lists into arrays."""
        object.__setattr__(self, 'n', check_draws(self.n))
        object.__setattr__(self, 'n0', check_draws(self.n0, 'n0'))
        object.__setattr__(self, 'hits', check_hits(self.hits, self.n))
        guess = np.asarray(self.guess)
        if guess.size == 0:
            guess = guess.astype(np.int64)
        if guess.dtype.kind not in 'iu':
            raise ValueError(f'guess must hold integer classes, got {guess.dtype}')
        if guess.shape != self.hits.shape:
            raise ValueError(
                f'guess and hits must have one shape, got {guess.shape} and {self.hits.shape}'
            )
        if guess.size and guess.min() < 0:
            raise ValueError(f'guess must hold classes >= 0, got {guess.min()}')
        object.__setattr__(self, 'guess', guess)

    @property
    def num_components(self) -> int:
        """Number of components K, the size of the family."""
        return int(self.guess.size)

    def merge(self, other: Votes) -> Votes:
        """Adds the estimation votes of further, independent draws under the same guess.

        Args:
            other (Votes): Votes whose guess came from the same selection draws.

        Returns:
            Votes: The guess with the hits and draws of both.

        Raises:
            ValueError: If the guesses or the numbers of selection draws differ.
        """
        if self.n0 != other.n0 or not np.array_equal(self.guess, other.guess):
            raise ValueError('only votes with the same guess and n0 can be merged')
        hits = self.hits.astype(np.int64) + other.hits
        return Votes(guess=self.guess, hits=hits, n=self.n + other.n, n0=self.n0)


@dataclass(frozen=True, eq=False)
class VotesRecord:
    """What one votes file holds.

    Attributes:
        votes (Votes): The votes.
        meta (dict): Provenance, as JSON values.
        label (np.ndarray | None): Ground truth of the components, if it was stored beside.
        base (np.ndarray | None): Prediction of the base model without noise, if stored.
    """

    votes: Votes
    meta: dict[str, Any]
    label: NDArray[np.integer] | None = None
    base: NDArray[np.integer] | None = None


def save_votes(path: str | os.PathLike[str], record: VotesRecord) -> None:
    """Writes a compressed votes file, at once or not at all.

    The same record gives the same bytes. The file is complete under its name or absent: it is
    written beside and then renamed.

    Args:
        path (str | os.PathLike): File to write, by custom with the ending ``.npz``.
        record (VotesRecord): What to write.

    Raises:
        OSError: If the folder cannot be written.
    """
    votes = record.votes
    arrays = {
        'format': np.int64(FORMAT),
        'guess': _narrow(votes.guess),
        'hits': _narrow(votes.hits),
        'n': np.int64(votes.n),
        'n0': np.int64(votes.n0),
        'meta': np.frombuffer(json.dumps(record.meta, sort_keys=True).encode(), dtype=np.uint8),
    }
    if record.label is not None:
        arrays['label'] = _narrow(record.label)
    if record.base is not None:
        arrays['base'] = _narrow(record.base)
    with atomic_writer(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def load_votes(path: str | os.PathLike[str]) -> VotesRecord:
    """Reads a votes file.

    Args:
        path (str | os.PathLike): File written by ``save_votes``.

    Returns:
        VotesRecord: Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        VotesFileError: If the file is damaged or not a votes file; the message names it and says
            what to do.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if int(data['format']) != FORMAT:
                raise ValueError(
                    f'its format is {int(data["format"])}, this version reads {FORMAT}'
                )
            return VotesRecord(
                votes=Votes(
                    guess=data['guess'], hits=data['hits'], n=int(data['n']), n0=int(data['n0'])
                ),
                meta=json.loads(data['meta'].tobytes()),
                label=data.get('label'),
                base=data.get('base'),
            )
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise VotesFileError(
            f'cannot read the votes file {os.fspath(path)}: {error}. Delete this one file and run '
            'the sampling again: the other images are kept.'
        ) from error


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary binary file beside ``path`` that takes its name when all went well.

    Args:
        path (str | os.PathLike): File that will exist afterwards.

    Yields:
        BinaryIO: The file to write to.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}-', suffix='.tmp')
    try:
        with os.fdopen(handle, 'wb') as file:
            yield file
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _narrow(array: NDArray[np.integer]) -> NDArray[np.integer]:
    """The smallest type that holds the values: the file's bytes follow from them alone."""
    array = np.asarray(array)
    ends = (int(array.min()), int(array.max())) if array.size else (0,)
    return array.astype(np.result_type(*(np.min_scalar_type(end) for end in ends)))
