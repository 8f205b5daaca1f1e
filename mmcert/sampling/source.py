"""Makes the draws of one input, ahead of the model where that is work for the same processor."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from mmcert.perturbations.base import Perturbation
from mmcert.sampling.draws import draw_seed


class DrawSource:
    """The perturbed copies of one input, by number.

    Each draw has a generator of its own on the input's device, so it is the same tensor however
    draws are batched, shared or resumed. On the CPU, where torch fills a tensor with noise in one
    thread, the draws of a batch are made side by side while the model is at the one before. A CUDA
    device makes them itself, queued before the pass that needs them.

    Args:
        image (torch.Tensor): The input.
        perturbation (Perturbation): Law of the draws.
        seed (int): Seed of the run.
        digest (bytes): Address of the input.
    """

    def __init__(
        self, image: torch.Tensor, perturbation: Perturbation, seed: int, digest: bytes
    ) -> None:
        self.image, self.perturbation = image, perturbation
        self.seed, self.digest = seed, digest
        self._ahead: dict[tuple[int, int], Future[torch.Tensor]] = {}
        self._pool: ThreadPoolExecutor | None = None
        if image.device.type == 'cpu':
            self._pool = ThreadPoolExecutor(torch.get_num_threads(), 'mmcert-draws')

    def take(self, stage: int, indices: Iterable[int]) -> list[torch.Tensor]:
        """Some draws of a stage."""
        self.prepare(stage, indices)
        return [
            self._ahead.pop((stage, index)).result() if self._pool else self._draw(stage, index)
            for index in indices
        ]

    def prepare(self, stage: int, indices: Iterable[int]) -> None:
        """Begins to make draws that will be taken soon."""
        if self._pool is None:
            return
        for index in indices:
            if (stage, index) not in self._ahead:
                self._ahead[stage, index] = self._pool.submit(self._draw, stage, index)

    def close(self) -> None:
        """Forgets what was prepared and not taken."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    @torch.no_grad()
    def _draw(self, stage: int, index: int) -> torch.Tensor:
        generator = torch.Generator(self.image.device)
        generator.manual_seed(draw_seed(self.seed, self.digest, stage, index))
        return self.perturbation.sample(self.image, generator)
