"""What segmentors of images and of clouds share: a model that is a function of its input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel

from mmcert.certifier.segmentor import Labelled
from mmcert.models.precision import PrecisionSettings
from mmcert.models.randomness import SEEDED, UNREPEATABLE, RandomNumbers, Repeatability
from mmcert.sampling import LogitMaps
from mmcert.votes import Grid


class RepeatableSegmentor(ABC):
    """A model of OpenMMLab that gives an input the same labels in every batch, run and process.

    Random numbers that the model draws are seeded by the input (see ``RandomNumbers``). Before the
    first input is sampled, two passes over it must agree (see ``Repeatability``).

    Args:
        base (BaseModel): A trained segmentor.
        precision (PrecisionSettings | None): How the model computes.
        together (bool): Whether a batch may go through the model at once.
        settings (Hashable): What else may change the model's output.
    """

    grid: Grid | None = None

    def __init__(
        self,
        base: BaseModel,
        precision: PrecisionSettings | None,
        together: bool,
        *settings: Hashable,
    ) -> None:
        self.base = base
        self.precision = precision or PrecisionSettings()
        self._random = RandomNumbers(together)
        self._repeats = Repeatability(base, self.precision, *settings)

    def __call__(self, inputs: list[torch.Tensor]) -> LogitMaps | torch.Tensor:
        """Labels B perturbed inputs: label maps (B, ...), integers, or the logits that give them.

        Raises:
            SegmentorOutputError: If a score is NaN or infinite.
            UnrepeatableModelError: If two passes over the first input ever seen differ.
        """
        if self._repeats.differing is None:
            self.with_margin(inputs[0])
        return self._output(inputs)

    def with_margin(self, inputs: torch.Tensor) -> Labelled:
        """Labels one input and says how clear each label is, see ``certifier.segmentor.margins``.

        Raises:
            SegmentorOutputError: If a score is NaN or infinite.
            UnrepeatableModelError: If it is the first input, and another pass over it differs.
        """
        found = self._with_margin(inputs)
        self._repeats.check(found, lambda: self._with_margin(inputs))
        return found

    def to_dict(self) -> dict[str, Any]:
        """What certificates say of the arithmetic, once an input was labelled, as JSON values."""
        values = self.precision.to_dict(next(self.base.parameters()).device)
        if self._random.drawn:
            values['random_numbers'] = SEEDED
        if self._repeats.differing:
            values |= {'repeatable': False, 'certified_model': UNREPEATABLE}
        return values

    @abstractmethod
    def _output(self, inputs: list[torch.Tensor]) -> LogitMaps | torch.Tensor:
        """Labels a batch; see ``__call__``."""

    @abstractmethod
    def _with_margin(self, inputs: torch.Tensor) -> Labelled:
        """Labels and margins by one pass."""


def is_stock(module: torch.nn.Module, source: type, names: Sequence[str]) -> bool:
    """Whether a module has these methods of a class, and no hooks around its call."""
    cls = type(module)
    return not (module._forward_hooks or module._forward_pre_hooks) and all(
        name not in vars(module) and getattr(cls, name, None) is getattr(source, name)
        for name in names
    )
