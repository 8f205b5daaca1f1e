"""Small trained networks on disk: architecture and weights, in one file."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmcert.safe_loading import UnsafeFileError, load_weights


def network_digest(spec: Mapping[str, Any], network: nn.Module) -> str:
    """Digest of architecture and weights."""
    digest = hashlib.blake2b(repr(sorted(spec.items())).encode(), digest_size=16)
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_network(
    path: str | os.PathLike[str],
    kind: str,
    spec: Mapping[str, Any],
    network: nn.Module,
    **information: Any,
) -> None:
    """Writes a network to a file that ``load_network`` reads.

    Args:
        path (str | os.PathLike): Where.
        kind (str): What it is, such as 'surrogate'.
        spec (Mapping): Its architecture.
        network (nn.Module): Its weights.
        **information: What else is worth recording; nothing depends on it.
    """
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    torch.save({kind: dict(spec), 'state_dict': state, **information}, path)


def load_network(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what ``save_network`` wrote: architecture and weights, on the CPU.

    Nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: If the file is not one of this kind.
        FileNotFoundError: If there is none.
    """
    message = f'{path} is not a {kind}: it must be written by mmcert train_{kind}'
    try:
        stored = load_weights(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'there is no {kind} {path}: mmcert train_{kind} CONFIG trains one, see configs/{kind}s'
        ) from error
    except UnsafeFileError as error:
        raise ValueError(message) from error
    if not isinstance(stored, dict) or not {kind, 'state_dict'} <= stored.keys():
        raise ValueError(message)
    if not (isinstance(stored[kind], dict) and isinstance(stored['state_dict'], dict)):
        raise ValueError(message)
    return stored[kind], stored['state_dict']
