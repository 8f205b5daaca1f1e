"""The votes of one input: everything that its certificates are computed from."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.binomial import SELECTIONS, check_hits
from mmcert.certify.checks import check_draws

FORMAT = 2
"""Version of the file format written by ``save_votes``."""


_STARTED = time.time()


class VotesFileError(ValueError):
    """A votes file that cannot be read, or does not hold what it should."""


class NotVotesError(VotesFileError):
    """A file that was never one of votes: nothing is to be deleted."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes of the smoothed model on one input (one family).

    The guess must come from the ``n0`` selection draws and the hits from ``n`` further draws, all
    independent; nothing here can check that. Votes with n0 = 0 have the most frequent class of the
    ``n`` draws themselves as their guess: they can be certified with ``selection='same_draws'``
    only.

    Attributes:
        guess (np.ndarray): Guess class of each component, any shape, integers >= 0.
        hits (np.ndarray): Estimation draws that agree with the guess, the shape of ``guess``,
            integers in [0, n].
        n (int): Number of estimation draws, at least 1.
        n0 (int): Number of selection draws, at least 0.
        selection_hits (np.ndarray | None): Selection draws that agree with the guess, integers in
            [0, n0]; needed to count all draws, and for an order of the components.
        looks (tuple[int, ...]): Numbers of estimation draws after which sampling might have
            stopped, increasing, the last one n; empty if n was fixed beforehand.
        history (tuple[np.ndarray, ...]): Hits at all looks but the last.
        coarse (tuple[Votes, ...]): Votes for the nodes of a taxonomy, finest level first: the same
            draws, with nodes in place of classes.

    Raises:
        ValueError: If shapes differ or a value is out of range.
    """

    guess: NDArray[np.integer]
    hits: NDArray[np.integer]
    n: int
    n0: int
    selection_hits: NDArray[np.integer] | None = None
    looks: tuple[int, ...] = ()
    history: tuple[NDArray[np.integer], ...] = ()
    coarse: tuple[Votes, ...] = ()

    def __post_init__(self) -> None:
        """Checks the fields, and turns lists into arrays."""
        object.__setattr__(self, 'n', check_draws(self.n))
        if self.n0 != 0 or isinstance(self.n0, bool):
            object.__setattr__(self, 'n0', check_draws(self.n0, 'n0'))
        object.__setattr__(self, 'hits', check_hits(self.hits, self.n))
        object.__setattr__(self, 'guess', self._checked_guess())
        if self.selection_hits is not None:
            selection_hits = self._checked_selection_hits(self.selection_hits)
            object.__setattr__(self, 'selection_hits', selection_hits)
        self._check_looks()
        for votes in self.coarse:
            self._check_shape(votes.guess, 'coarse votes')
            if (votes.n, votes.n0, votes.looks) != (self.n, self.n0, self.looks):
                raise ValueError('coarse votes must come from the same draws')

    def _checked_guess(self) -> NDArray[np.integer]:
        guess = np.asarray(self.guess)
        if guess.size == 0:
            guess = guess.astype(np.int64)
        if guess.dtype.kind not in 'iu':
            raise ValueError(f'guess must hold integer classes, got {guess.dtype}')
        self._check_shape(guess, 'guess')
        if guess.size and guess.min() < 0:
            raise ValueError(f'guess must hold classes >= 0, got {guess.min()}')
        return guess

    def _checked_selection_hits(self, hits: ArrayLike) -> NDArray[np.integer]:
        if self.n0 > 0:
            checked = check_hits(hits, self.n0)
        else:
            checked = check_hits(hits, 1)
            if checked.any():
                raise ValueError('selection_hits must be 0 without selection draws (n0=0)')
        self._check_shape(checked, 'selection_hits')
        return checked

    def _check_looks(self) -> None:
        if not self.looks and not self.history:
            return
        looks = self.looks
        if looks[-1:] != (self.n,) or any(a >= b for a, b in itertools.pairwise(looks)):
            raise ValueError(f'looks must increase up to n={self.n}, got {looks}')
        if len(self.history) != len(looks) - 1:
            raise ValueError(
                f'{len(looks)} looks need the hits at {len(looks) - 1} earlier ones, got '
                f'{len(self.history)}'
            )
        checked = tuple(check_hits(h, n) for h, n in zip(self.history, looks, strict=False))
        for hits in checked:
            self._check_shape(hits, 'history')
        object.__setattr__(self, 'history', checked)

    def _check_shape(self, array: NDArray[np.integer], name: str) -> None:
        if array.shape != self.hits.shape:
            raise ValueError(
                f'{name} and hits must have one shape, got {array.shape} and {self.hits.shape}'
            )

    @property
    def num_components(self) -> int:
        """Number of components K, the size of the family."""
        return int(self.guess.size)

    @property
    def selections(self) -> tuple[str, ...]:
        """The selections that these votes can be certified with."""
        if self.n0 == 0:
            return ('same_draws',)
        return SELECTIONS if self.selection_hits is not None else ('holdout',)

    def stages(self, selection: str) -> list[tuple[NDArray[np.integer], int]]:
        """The counts that are tested at each look.

        Args:
            selection (str): 'holdout' counts the estimation draws, 'same_draws' all draws.

        Returns:
            list[tuple]: Counts of agreement with the guess, the shape of ``hits``, and the number
            of draws they are out of; one pair per look, or one alone if n was fixed.

        Raises:
            ValueError: If these votes cannot be counted so; the message says why.
        """
        all_hits = [*self.history, self.hits]
        draws = self.looks or (self.n,)
        if selection == 'holdout':
            if self.n0 == 0:
                raise ValueError(
                    "the votes have no selection draws (n0=0): use selection='same_draws'"
                )
            return list(zip(all_hits, draws, strict=True))
        if self.n0 == 0:
            return list(zip(all_hits, draws, strict=True))
        if self.selection_hits is None:
            raise ValueError(
                "selection='same_draws' counts the selection draws as well, and these votes lack "
                'selection_hits'
            )
        return [
            (_added(hits, self.selection_hits, n + self.n0), n + self.n0)
            for hits, n in zip(all_hits, draws, strict=True)
        ]

    def merge(self, other: Votes) -> Votes:
        """Adds the estimation votes of further, independent draws under the same guess.

        Args:
            other (Votes): Votes whose guess came from the same selection draws.

        Returns:
            Votes: The guess with the hits and draws of both.

        Raises:
            ValueError: If the guesses or the numbers of selection draws differ, or one of them has
                looks: further draws would be one that was not planned.
        """
        if self.looks or other.looks:
            raise ValueError('votes with looks cannot be merged; see `with_look`')
        if self.n0 != other.n0 or not np.array_equal(self.guess, other.guess):
            raise ValueError('only votes with the same guess and n0 can be merged')
        n = self.n + other.n
        return replace(
            self,
            hits=_added(self.hits, other.hits, n),
            n=n,
            coarse=tuple(a.merge(b) for a, b in zip(self.coarse, other.coarse, strict=True)),
        )

    def with_look(self, further: Votes) -> Votes:
        """Adds a look to group-sequential votes.

        Args:
            further (Votes): Votes of the draws after these, without looks of their own.

        Returns:
            Votes: With the hits and draws of both, and one look more.

        Raises:
            ValueError: If these votes have no looks, or see ``merge``.
        """
        if not self.looks:
            raise ValueError('n was fixed beforehand: further draws would be an unplanned look')
        merged = self.without_looks().merge(further)
        looks = (*self.looks, merged.n)
        coarse = tuple(
            replace(new, looks=looks, history=(*old.history, old.hits))
            for old, new in zip(self.coarse, merged.coarse, strict=True)
        )
        return replace(merged, looks=looks, history=(*self.history, self.hits), coarse=coarse)

    def without_looks(self) -> Votes:
        """The counts alone, as if n had been fixed: for arithmetic, not to be certified."""
        coarse = tuple(part.without_looks() for part in self.coarse)
        return replace(self, looks=(), history=(), coarse=coarse)

    def as_first_look(self) -> Votes:
        """The same votes as the first look of a group-sequential run."""
        coarse = tuple(part.as_first_look() for part in self.coarse)
        return replace(self, looks=(self.n,), history=(), coarse=coarse)


@dataclass(frozen=True, eq=False)
class Grid:
    """Which component each pixel shows, where components are the cells of a coarser grid.

    Attributes:
        rows (np.ndarray): Row of cells of each row of pixels, shape (H,), integers.
        columns (np.ndarray): The same of columns, shape (W,).
    """

    rows: NDArray[np.integer]
    columns: NDArray[np.integer]

    def spread(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Values of cells, shape (..., h, w), at the pixels, shape (..., H, W)."""
        return cells[..., self.rows[:, None], self.columns]


@dataclass(frozen=True, eq=False)
class VotesRecord:
    """What one votes file holds.

    Attributes:
        votes (Votes): The votes.
        meta (dict): Provenance, as JSON values.
        label (np.ndarray | None): Ground truth of the components, if it was stored beside.
        base (np.ndarray | None): Prediction of the base model without noise, if stored.
        margin (np.ndarray | None): How clear that prediction was, integers in [0, 255], if stored:
            an order of the components that no draw had a part in.
        grid (Grid | None): Where the votes are for the cells of a grid and the label is for
            pixels: which cell each pixel shows.
    """

    votes: Votes
    meta: dict[str, Any]
    label: NDArray[np.integer] | None = None
    base: NDArray[np.integer] | None = None
    margin: NDArray[np.integer] | None = None
    grid: Grid | None = None

    @property
    def pixels_per_component(self) -> int:
        """Most pixels that show the same component: 1 without a grid."""
        if self.grid is None:
            return 1
        rows, columns = self.grid.rows, self.grid.columns
        return int(np.bincount(rows).max() * np.bincount(columns).max())

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the components, (..., *votes), at the size of the label."""
        return values if self.grid is None else self.grid.spread(values)


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
        'n': np.int64(votes.n),
        'n0': np.int64(votes.n0),
        'looks': np.asarray(votes.looks, dtype=np.int64),
        'levels': np.int64(len(votes.coarse)),
        'meta': np.frombuffer(json.dumps(record.meta, sort_keys=True).encode(), dtype=np.uint8),
    }
    for level, part in enumerate((votes, *votes.coarse)):
        counts = {'guess': part.guess, 'hits': part.hits, 'selection_hits': part.selection_hits}
        counts |= {f'hits-look{index}': hits for index, hits in enumerate(part.history)}
        arrays |= {
            f'{key}-level{level}': _narrow(array)
            for key, array in counts.items()
            if array is not None
        }
    beside = {'label': record.label, 'base': record.base, 'margin': record.margin}
    if record.grid is not None:
        beside |= {'rows': record.grid.rows, 'columns': record.grid.columns}
    arrays |= {key: _narrow(array) for key, array in beside.items() if array is not None}
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
            if not isinstance(data, Mapping) or 'format' not in data:
                raise NotVotesError(
                    f'{os.fspath(path)} is no votes file: give the folder of the votes alone '
                    '(votes-... in that of the results)'
                )
            if int(data['format']) != FORMAT:
                raise ValueError(
                    f'its format is {int(data["format"])}, this version reads {FORMAT}'
                )
            coarse = tuple(_read_level(data, level + 1) for level in range(int(data['levels'])))
            return VotesRecord(
                votes=replace(_read_level(data, 0), coarse=coarse),
                meta=json.loads(data['meta'].tobytes()),
                label=data.get('label'),
                base=data.get('base'),
                margin=data.get('margin'),
                grid=Grid(data['rows'], data['columns']) if 'rows' in data else None,
            )
    except (FileNotFoundError, NotVotesError):
        raise
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise VotesFileError(
            f'cannot read the votes file {os.fspath(path)}: {error}. Delete this one file and run '
            'the sampling again: the other images are kept.'
        ) from error


def _read_level(data: Mapping[str, NDArray[np.integer]], level: int) -> Votes:
    looks = tuple(data['looks'].tolist())
    return Votes(
        guess=data[f'guess-level{level}'],
        hits=data[f'hits-level{level}'],
        n=int(data['n']),
        n0=int(data['n0']),
        selection_hits=data.get(f'selection_hits-level{level}'),
        looks=looks,
        history=tuple(data[f'hits-look{index}-level{level}'] for index in range(len(looks) - 1)),
    )


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


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Removes what ``atomic_writer`` was writing in a folder when its process was killed.

    Files that are newer than this process are left alone: others may be writing them.
    """
    for file in Path(folder).glob('.*.tmp'):
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < _STARTED:
                file.unlink()


def _added(
    first: NDArray[np.integer], second: NDArray[np.integer], largest: int
) -> NDArray[np.integer]:
    """The sum of two counts, in the smallest type for values up to ``largest``."""
    return np.add(first, second, dtype=np.min_scalar_type(largest), casting='unsafe')


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _narrow(array: NDArray[np.integer]) -> NDArray[np.integer]:
    """The smallest type that holds the values: the file's bytes follow from them alone."""
    array = np.asarray(array)
    ends = (int(array.min()), int(array.max())) if array.size else (0,)
    return array.astype(np.result_type(*(np.min_scalar_type(end) for end in ends)))
