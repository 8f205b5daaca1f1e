"""The certificate of one input as a document that others can check.

It has a group for each question: what is promised, how it was sampled and tested, against which
perturbation, of which model and input, with which versions. Its digest covers these groups, the
votes and the maps as they are written. ``certificate.schema.json`` beside this file is its JSON
schema, and ``tools/verify.py`` checks a document against its votes without any of this package.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.files import legal_json
from mmcert.votes.record import VotesRecord, array_digest, votes_digests

FORMAT, VERSION = 'mmcert certificate', 1
"""What the document calls itself; the version rises when a key changes its place or meaning."""

GROUPS = ('promise', 'sampling', 'test', 'perturbation', 'model', 'input', 'versions')
"""What the statement consists of."""

PLACES = {
    'promise': (
        'kind', 'promise', 'description', 'confidence', 'family', 'k', 'may_be_wrong', 'attack_set',
        'norm', 'radius', 'unit', 'components', 'certified', 'certified_by_level', 'joint_radius',
        'hierarchy', 'arithmetic',
    ),
    'sampling': (
        'seed', 'n0', 'n', 'num_values', 'looks', 'stopped', 'next_look_would_certify',
    ),
    'test': (
        'asked', 'tau', 'alpha', 'procedure', 'selection', 'tested_tau', 'order', 'alpha_spending',
        'cells',
    ),
    'model': (
        'model', 'precision', 'resolution', 'scales', 'flip', 'denoiser', 'components_are', 'runs',
        'columns',
    ),
    'input': (
        'input', 'input_type', 'component_type', 'space', 'certified_space', 'attack_on_this_input',
    ),
}  # fmt: skip
"""The group of each entry; what a perturbation says besides belongs to ``perturbation``."""

RENAMED = {
    ('promise', 'promise'): 'text',
    ('perturbation', 'perturbation'): 'type',
    ('model', 'model'): 'base',
    ('input', 'input'): 'digest',
}
"""Entries that have a shorter name within their group."""

LARGE = ('cells',)
"""Entries of the document that no table needs."""

_GROUP_OF = {key: group for group, keys in PLACES.items() for key in keys}
_ENTRY_OF = {(group, name): key for (group, key), name in RENAMED.items()}


def build_document(
    entries: Mapping[str, Any], record: VotesRecord, maps: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    """The document of a certificate, as JSON values.

    Args:
        entries (Mapping): What the certificate says; ``model`` with ``versions`` in it.
        record (VotesRecord): The votes that it follows from.
        maps (Mapping): The maps of the input, of which ``written_maps`` are covered.

    Raises:
        ValueError: If two entries have one place.
    """
    statement: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for key, value in legal_json(entries).items():
        group = _GROUP_OF.get(key, 'perturbation')
        name = RENAMED.get((group, key), key)
        if name in statement[group]:
            raise ValueError(f'two entries would be {group}.{name} of the document: rename {key!r}')
        statement[group][name] = value
    statement['versions'] = statement['model']['base'].pop('versions', {})
    maps = written_maps(maps)
    parts = {f'votes {name}': digest for name, digest in votes_digests(record).items()}
    parts |= {f'maps {name}': array_digest(array) for name, array in maps.items()}
    parts |= {f'statement {group}': json_digest(values) for group, values in statement.items()}
    digest = {'algorithm': 'sha256', 'all': json_digest(parts), 'parts': parts}
    return {'format': FORMAT, 'version': VERSION, **statement, 'digest': digest}


def entries(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a document says, without its groups: what tables, summaries and manifests hold.

    >>> entries({'promise': {'text': 'none', 'radius': 0.2}, 'model': {'base': {'weights': 'a'}},
    ...          'versions': {'mmcert': '0.1'}})
    {'promise': 'none', 'radius': 0.2, 'model': {'weights': 'a', 'versions': {'mmcert': '0.1'}}}
    """
    found: dict[str, Any] = {}
    for group in GROUPS:
        values = document.get(group, {})
        if group == 'versions':
            if values:
                found['model'] = {**found.get('model', {}), 'versions': values}
            continue
        named = {_ENTRY_OF.get((group, name), name): value for name, value in values.items()}
        found |= {key: value for key, value in named.items() if key not in LARGE}
    return found


def written_maps(maps: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The maps that are written beside a document, as they are written.

    ``labels`` are the certified classes, with 254 where nothing is certified; ``radius``, where
    there is one, the joint radii; with a hierarchy, ``level`` is the certified level and
    ``groups1`` and so on the group of each level. All are uint8 but the radii, which are float32.
    """
    found = {'labels': maps['cert'].astype(np.uint8)}
    if 'radius' in maps:
        found['radius'] = maps['radius']
    if 'levels' in maps:
        found['level'], *groups = maps['levels'].astype(np.uint8)
        found |= {f'groups{level}': choice for level, choice in enumerate(groups, 1)}
    return found


def json_digest(values: Any) -> str:
    """SHA-256 of JSON values: keys sorted, without spaces, in ASCII, numbers as Python has them."""
    text = json.dumps(values, sort_keys=True, separators=(',', ':'), allow_nan=False)
    return hashlib.sha256(text.encode('ascii')).hexdigest()
