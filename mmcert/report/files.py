"""Result files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from mmcert.certify.votes import atomic_writer


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes a JSON file, at once or not at all; a rate that does not exist (NaN) becomes null.

    Args:
        path (str | os.PathLike): File to write.
        content (Any): JSON values, or mappings and sequences of them.
    """
    with atomic_writer(path) as file:
        file.write(json.dumps(_legal(content), indent=1, allow_nan=False).encode() + b'\n')


def write_json_lines(path: str | os.PathLike[str], rows: Iterable[Any]) -> None:
    """Writes a JSON file with one value per line; see ``write_json``.

    Args:
        path (str | os.PathLike): File to write.
        rows (Iterable): One value per line.
    """
    with atomic_writer(path) as file:
        for row in rows:
            file.write(json.dumps(_legal(row), allow_nan=False).encode() + b'\n')


def _legal(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _legal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_legal(item) for item in value]
    return value
