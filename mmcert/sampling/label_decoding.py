"""Label maps from scores, the fastest way on each device."""

import importlib.util
import logging
from functools import lru_cache
from types import ModuleType

import torch

from mmcert.sampling.logit_maps import LogitMaps, eager_labels
from mmcert.sampling.tile_decoder import TileDecoder


def decode_labels(maps: LogitMaps) -> torch.Tensor:
    """Label maps (B, H, W) of B maps of C finite scores, as ``eager_labels`` defines them.

    Where possible without the resized scores of all classes. Some integer type.
    """
    kernel = kernel_for(maps)
    if kernel is not None:
        return kernel.decode_labels(maps)
    if maps.scores.dtype not in (torch.float32, torch.float64):
        maps = maps.with_scores(maps.scores.float())
    if TileDecoder.suits(maps):
        low, high = (float(value) for value in maps.scores.detach().aminmax())
        peak = max(-low, high)
        if peak < float('inf'):
            return TileDecoder(maps, peak).labels()
    # Draw by draw: the resized scores of a batch need not fit into memory.
    return torch.cat([eager_labels(maps.with_scores(score)) for score in maps.scores.split(1)])


def add_hits(hits: torch.Tensor, output: LogitMaps | torch.Tensor, guess: torch.Tensor) -> None:
    """Adds the number of draws whose label is the guess to ``hits``, int32, in place.

    ``output`` are the scores of B draws or their label maps (B, ...); ``hits`` and ``guess`` have
    the shape of one map.
    """
    if isinstance(output, LogitMaps):
        kernel = kernel_for(output)
        if kernel is not None:
            kernel.add_hits(hits, output, guess)
            return
        output = decode_labels(output)
    # Summed as bytes, which is fast and holds for fewer than 256 draws.
    for agreed in (output == guess).split(255):
        hits += agreed.sum(dim=0, dtype=torch.uint8)


@lru_cache(maxsize=8)
def _triton(device: str) -> ModuleType | None:
    """The kernel's module for a type of device; None, with one log line, where it cannot run."""
    if device == 'cuda' and importlib.util.find_spec('triton') is not None:
        # torch brings it along for CUDA.
        from mmcert.sampling import triton_decoder

        return triton_decoder
    logging.getLogger('mmcert').warning(
        'there is no Triton for device %r: labels are read by torch itself, one draw after the '
        'other, which takes more time and memory',
        device,
    )
    return None


def kernel_for(maps: LogitMaps) -> ModuleType | None:
    """What reads maps in place on a device other than the CPU, without memory for their scores."""
    device = maps.scores.device.type
    if device == 'cpu':
        return None
    kernel = _triton(device)
    return kernel if kernel is not None and kernel.suits(maps) else None
