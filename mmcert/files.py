"""Files that are written at once or not at all."""

import contextlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

_STARTED = time.time()

WRITING_SECONDS = 3600.0
"""How long a file may take to write, on a slow file system and with clocks that differ."""


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary binary file beside ``path`` that takes its name when all went well.

    Args:
        path (str | os.PathLike): File that will exist afterwards.
    """
    temporary = _beside(path)
    try:
        with temporary.open('xb') as file:
            yield file
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            # What could not be written is of more help than that something could not.
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes a folder beside ``path`` that takes its name when it is complete.

    Several processes may do this at once: each fills its own, one wins, and the others are removed.

    Args:
        path (str | os.PathLike): Folder that will exist afterwards.
    """
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException as error:
        shutil.rmtree(temporary)
        if not (isinstance(error, OSError) and Path(path).exists()):
            raise


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Refuses a folder in which no file can be made; makes neither it nor anything that stays.

    Raises:
        OSError: If it cannot be written, or cannot be made where it is to be.
    """
    folder = Path(folder).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f'{nearest} is a file, not a folder')
    probe = nearest / f'.probe-{os.getpid()}'
    probe.touch()
    # Containers on several machines may share the folder, and all have one process id.
    probe.unlink(missing_ok=True)


def _beside(path: str | os.PathLike[str]) -> Path:
    """A new hidden name in the same folder."""
    path = Path(path)
    return path.with_name(f'.{path.name}-{uuid.uuid4().hex[:12]}.tmp')


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Removes what ``atomic_writer`` was writing in a folder when its process was killed.

    Files that were touched in the hour before this process began, or later, are left alone: others,
    on this machine or another, may be writing them.
    """
    for file in Path(folder).glob('.*.tmp'):
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < _STARTED - WRITING_SECONDS:
                file.unlink()


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON values, at once or not at all; a rate that does not exist (NaN) becomes null."""
    with atomic_writer(path) as file:
        file.write(json.dumps(legal_json(content), indent=1, allow_nan=False).encode() + b'\n')


def write_json_lines(path: str | os.PathLike[str], rows: Iterable[Any]) -> None:
    """Writes JSON values, one per line; see ``write_json``."""
    with atomic_writer(path) as file:
        for row in rows:
            file.write(json.dumps(legal_json(row), allow_nan=False).encode() + b'\n')


def legal_json(value: Any) -> Any:
    """JSON values as a file holds them: a rate that does not exist (NaN) is null, tuples lists."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: legal_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [legal_json(item) for item in value]
    return value
