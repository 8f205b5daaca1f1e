"""What corruptions of images and of clouds share: severities and seeds."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from mmcert.sampling import input_digest

SEVERITIES = (1, 2, 3, 4, 5)
"""All severities."""


@dataclass(frozen=True, eq=False)
class Corrupted:
    """A corrupted input.

    Attributes:
        inputs (torch.Tensor): What became of the input, of its type and on its device.
        origin (torch.Tensor | None): Of a cloud: which point of the clean cloud each point is, -1
            for points that were added or are there twice, shape (N',), int64.
        rotation (torch.Tensor | None): Axis-angle vector in radians, shape (3,), float64, where the
            corruption is a rotation about the origin and nothing else.
    """

    inputs: torch.Tensor
    origin: torch.Tensor | None = None
    rotation: torch.Tensor | None = None


@dataclass(frozen=True)
class Corruption(ABC):
    """A corruption in five severities.

    Call it with an input, a severity and a seed. The result depends on these, and on the content of
    the input, alone: on no global generator, and not on what was corrupted before.

    Attributes:
        name (str): Its name.
        category (str): What sort of corruption it is.
        domain (str): 'image' or 'points', as ``Perturbation.domain``.
        source (str): Where it was published.
    """

    name: str
    category: str
    domain: ClassVar[str]
    source: ClassVar[str]

    def __call__(self, inputs: torch.Tensor, severity: int, seed: int = 0) -> Corrupted:
        """Corrupts an input, which stays as it is.

        Args:
            inputs (torch.Tensor): An image (3, H, W) of whole levels 0-255, or a cloud (N, D),
                coordinates first.
            severity (int): 1 to 5.
            seed (int): Any integer.

        Raises:
            ValueError: If the severity or the input is not such.
            RuntimeError: If a library is missing; the message says which.
        """
        if severity not in SEVERITIES:
            raise ValueError(f'{self.name}: severity must be 1 to 5, got {severity!r}')
        self.check(inputs)
        text = f'{self.name} {severity} {int(seed)}'.encode()
        key = hashlib.blake2b(input_digest(inputs) + text, digest_size=4).digest()
        return self._apply(inputs, severity, int.from_bytes(key, 'little'))

    @abstractmethod
    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is no such input, with a ValueError."""

    @abstractmethod
    def _apply(self, inputs: torch.Tensor, severity: int, seed: int) -> Corrupted:
        """Corrupts an input that was checked, with a seed in [0, 2^32) of its own."""
