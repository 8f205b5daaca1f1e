"""Normal random numbers for many draws at once, each from a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


def fill_normal(
    batch: torch.Tensor,
    generators: Sequence[torch.Generator],
    sigma: float = 1.0,
    mean: float = 0.0,
) -> torch.Tensor:
    """Fills each item of a batch with normal numbers from its own generator.

    The numbers are those of ``item.normal_(mean, sigma, generator=generator)``. On the CPU, where
    torch fills a tensor in one thread, the items are filled side by side.

    Args:
        batch (torch.Tensor): Shape (B, ...), floating point, contiguous; changed in place.
        generators (Sequence[torch.Generator]): B of them, on the batch's device.
        sigma (float): Standard deviation.
        mean (float): Mean.

    Returns:
        torch.Tensor: ``batch``.
    """
    threads = torch.get_num_threads()
    if batch.device.type != 'cpu' or threads == 1 or len(batch) == 1:
        for item, generator in zip(batch, generators, strict=True):
            item.normal_(mean, sigma, generator=generator)
        return batch

    def fill(index: int) -> None:
        batch[index].normal_(mean, sigma, generator=generators[index])

    list(_workers(threads).map(fill, range(len(batch))))
    return batch


@lru_cache(maxsize=1)
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, 'mmcert-noise')
