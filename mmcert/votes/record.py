"""Votes files: the votes of one input, what was stored beside them, and where they come from."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.certify import Certificate, CertifySettings, Hierarchy, Votes
from mmcert.certify.certificate import ComponentOrder, certify_votes
from mmcert.files import atomic_writer

FORMAT = 2
"""Version of the file format written by ``save_votes``."""

UNTESTED = {'format', 'meta', 'label', 'base', 'runner_up', 'runner_up_hits'}
"""Arrays of votes files that no certificate follows from."""


class VotesFileError(ValueError):
    """A votes file that cannot be read, or does not hold what it should."""


class NotVotesError(VotesFileError):
    """A file that never held votes, so that it should not be deleted."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Which component each pixel shows, where components are the points of a coarser grid.

    Attributes:
        rows (np.ndarray): Row of grid points of each row of pixels, shape (H,), integers.
        columns (np.ndarray): The same of columns, shape (W,).
    """

    rows: NDArray[np.integer]
    columns: NDArray[np.integer]

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of grid points, shape (..., h, w), at the pixels, shape (..., H, W)."""
        return values[..., self.rows[:, None], self.columns]


@dataclass(frozen=True, eq=False)
class VotesRecord:
    """The content of one votes file.

    Attributes:
        votes (Votes): The votes.
        meta (dict): Provenance, as JSON values.
        label (np.ndarray | None): Ground truth of the components, if it was stored beside.
        base (np.ndarray | None): Prediction of the base model without noise, if stored.
        margin (np.ndarray | None): How clear that prediction was, integers in [0, 255], if stored:
            it orders the components without looking at a draw.
        grid (Grid | None): Where the votes are for the points of a grid and the label is for
            pixels: which grid point each pixel shows.
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

    def certify(
        self,
        settings: CertifySettings | None,
        hierarchy: Hierarchy | None = None,
        *,
        order: ComponentOrder | None = None,
    ) -> Certificate:
        """Certifies the votes; see ``certify_votes``."""
        return certify_votes(self.votes, settings, hierarchy, margin=self.margin, order=order)


def save_votes(path: str | os.PathLike[str], record: VotesRecord) -> None:
    """Writes a compressed votes file, at once or not at all; the same record gives the same bytes.

    >>> import tempfile
    >>> import numpy as np
    >>> from mmcert.certify import Votes
    >>> votes = Votes(guess=np.array([3, 1]), hits=np.array([99, 50]), n=100, n0=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_votes(f'{folder}/a.npz', VotesRecord(votes, meta={'name': 'a'}))
    ...     load_votes(f'{folder}/a.npz').votes.hits.tolist()
    [99, 50]

    Args:
        path (str | os.PathLike): File to write, by custom with the ending ``.npz``.
        record (VotesRecord): What to write.

    Raises:
        OSError: If the folder cannot be written.
    """
    with atomic_writer(path) as temporary:
        np.savez_compressed(temporary, **_arrays(record))  # type: ignore[arg-type]


def _arrays(record: VotesRecord) -> dict[str, NDArray[Any]]:
    """What a votes file holds of a record, in the types that it is written in."""
    votes = record.votes
    arrays: dict[str, Any] = {
        'format': np.int64(FORMAT),
        'n': np.int64(votes.n),
        'n0': np.int64(votes.n0),
        'looks': np.asarray(votes.looks, dtype=np.int64),
        'levels': np.int64(len(votes.group_votes)),
        'meta': np.frombuffer(json.dumps(record.meta, sort_keys=True).encode(), dtype=np.uint8),
    }
    narrowed = {'label': record.label, 'base': record.base, 'margin': record.margin}
    narrowed |= {'runner_up': votes.runner_up, 'runner_up_hits': votes.runner_up_hits}
    if record.grid is not None:
        narrowed |= vars(record.grid)
    if votes.enumerated:
        arrays['enumerated'] = np.True_
    for level, of in enumerate((votes, *votes.group_votes)):
        counts = {'guess': of.guess, 'hits': of.hits, 'selection_hits': of.selection_hits}
        counts |= {f'hits-look{index}': hits for index, hits in enumerate(of.history)}
        narrowed |= {f'{key}-level{level}': array for key, array in counts.items()}
    arrays |= {key: _narrow(array) for key, array in narrowed.items() if array is not None}
    if votes.table is not None:
        arrays['table'] = votes.table
    return arrays


def votes_digests(record: VotesRecord) -> dict[str, str]:
    """The ``array_digest`` of all that a certificate follows from, by the names in votes files.

    The label and the base model's prediction are not among them (annotations may change), nor the
    runner-up, which is an estimate, nor the meta, whose facts the certificate repeats.
    """
    arrays = _arrays(record)
    return {name: array_digest(arrays[name]) for name in sorted(arrays.keys() - UNTESTED)}


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of the shape and the values of an array, whatever type it is stored in.

    The shape as text, such as ``[360, 480]``, then the values in order as little-endian 64-bit
    integers, or floats where they are some.
    """
    array = np.asarray(array)
    kind = '<f8' if array.dtype.kind == 'f' else '<i8'
    digest = hashlib.sha256(str(list(array.shape)).encode())
    digest.update(array.astype(kind).tobytes())
    return digest.hexdigest()


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
                    f'{os.fspath(path)} is not a votes file; give the votes-* folder inside the '
                    'results folder'
                )
            if int(data['format']) != FORMAT:
                raise ValueError(
                    f'its format is {int(data["format"])}, this version reads {FORMAT}'
                )
            votes, *groups = (_read_level(data, level) for level in range(int(data['levels']) + 1))
            return VotesRecord(
                votes=replace(
                    votes,
                    group_votes=tuple(groups),
                    runner_up=data.get('runner_up'),
                    runner_up_hits=data.get('runner_up_hits'),
                ),
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
        enumerated='enumerated' in data,
        table=data.get('table'),  # type: ignore[arg-type]
    )


def _narrow(array: NDArray[np.integer]) -> NDArray[np.integer]:
    """The smallest type that holds the values: the file's bytes follow from them alone."""
    array = np.asarray(array)
    ends = (int(array.min()), int(array.max())) if array.size else (0,)
    return array.astype(np.result_type(*(np.min_scalar_type(end) for end in ends)))
