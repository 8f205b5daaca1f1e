"""What segmentors of images and of clouds share: a model that is a function of its input."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel

from mmcert.certifier.segmentor import (
    Labelled,
    UnrepeatableModelError,
    another,
    batch_dependence,
    count_differing,
    labelled_by,
)
from mmcert.models.precision import PrecisionSettings
from mmcert.models.randomness import RandomNumbers
from mmcert.sampling import LogitMaps
from mmcert.votes import Grid

SEEDED = (
    "the base model draws random numbers; the global generators (torch's, NumPy's, Python's) are "
    'seeded by the content of each perturbed input, which goes through the model by itself: what '
    'is certified is the model with these numbers, a function of its input'
)
"""What certificates say of a model that draws random numbers."""

UNREPEATABLE = (
    'two passes over the same input differ although the global generators were seeded alike, as '
    "with a CUDA device's kernels that add in no fixed order: what is certified is the model "
    'averaged over its own randomness, provided that this is independent from draw to draw; votes '
    'of another run may differ'
)
"""What certificates say of a model that gives other labels in another pass."""

_DIFFERING: WeakKeyDictionary[BaseModel, dict[Hashable, int]] = WeakKeyDictionary()
"""Of each model and its settings: components at which two passes differed."""


class RepeatableSegmentor(ABC):
    """A model of OpenMMLab that gives an input the same labels in every batch, run and process.

    Random numbers that the model draws are seeded by the input (see ``RandomNumbers``). Before the
    first input is sampled, two passes over it must agree, also beside another one in a batch.

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
        self._settings = (next(base.parameters()).device, self.precision, *settings)

    def __call__(self, inputs: list[torch.Tensor]) -> LogitMaps | torch.Tensor:
        """Labels B perturbed inputs: label maps (B, ...), integers, or the logits that give them.

        Raises:
            SegmentorOutputError: If a score is NaN or infinite.
            UnrepeatableModelError: If two passes over the first input ever seen differ.
        """
        if self.differing is None:
            self._compare(self._with_margin(inputs[0]), self._with_margin(inputs[0]))
        return self._output(inputs)

    def with_margin(self, inputs: torch.Tensor) -> Labelled:
        """Labels one input and says how clear each label is, see ``certifier.segmentor.margins``.

        Raises:
            SegmentorOutputError: If a score is NaN or infinite.
            UnrepeatableModelError: If it is the first input, and another pass over it differs.
        """
        found = self._with_margin(inputs)
        if self.differing is None:
            self._compare(found, self._with_margin(inputs))
        return found

    def require_repeatable(self, inputs: torch.Tensor, *, batch: int) -> None:
        """Refuses a model for which it matters what else is in the batch of an input.

        With a ``batch`` of several its labels must be the same before another input, behind it, and
        at both places of a batch with itself; and clear ones behind others in a whole batch. So
        batch statistics show (those of a denoiser, or of a module that ignores ``eval``), and so do
        neighbours and places. A check, not a proof. That two passes agree was checked with the
        first labels.

        Raises:
            UnrepeatableModelError: If they differ.
        """
        if batch == 1:
            return
        differing, total = batch_dependence(self._labelled, inputs, self._other(inputs), batch)
        if not differing:
            return
        first, again = (self._labelled([inputs, inputs])[0] for _ in range(2))
        if count_differing(first, again):
            # Not even the same batch gives the same: that is for the check of two passes.
            self._compare(first, again)
            return
        raise UnrepeatableModelError(
            'the labels of an input depend on what else is in its batch, or on its place there: '
            f'they differ at {differing} of {total} components, but what is smoothed must be a '
            'function of one input. Keep the inputs of a batch apart in the model and its denoiser '
            '(as by fixed statistics in batch normalisation, and random numbers that do not depend '
            'on the place), or set batch_size=1'
        )

    def _other(self, inputs: torch.Tensor) -> torch.Tensor:
        """An input that the model can take, with other statistics and contents."""
        return another(inputs)

    def _labelled(self, inputs: list[torch.Tensor]) -> list[Labelled]:
        """Labels of each input of a batch, and margins where there are scores."""
        output = self._output(inputs)
        if isinstance(output, LogitMaps):
            return labelled_by(output)
        return [(one, None) for one in output]

    @property
    def base_alone(self) -> 'RepeatableSegmentor':
        """The base model as it is, without what smoothing puts in front of it."""
        return self

    @abstractmethod
    def scores(self, batch: torch.Tensor) -> torch.Tensor:
        """What labels follow from, for attacks: gradients reach the inputs.

        Args:
            batch (torch.Tensor): Perturbed inputs, shape (B, ...).

        Returns:
            torch.Tensor: Logits in single precision, shape (B, K, ...), the largest of which is the
            label: 2 for a binary head.
        """

    @property
    def differing(self) -> int | None:
        """Components at which two passes of the model, used in this way, differed, if compared."""
        return _DIFFERING.get(self.base, {}).get(self._settings)

    def _compare(self, first: Labelled, second: Labelled) -> None:
        """Refuses a model on the CPU, and warns of one on another device, whose passes differ."""
        differing = count_differing(first, second)
        if differing:
            found = (
                f'two passes of {type(self.base).__name__} over the same input differ at '
                f'{differing} of {first[0].numel()} components, although the global generators '
                "(torch's, NumPy's, Python's) were in the same state: "
            )
            if first[0].device.type == 'cpu':
                raise UnrepeatableModelError(
                    f'{found}the model has a random generator or a state of its own, so it is no '
                    'function of its input, and votes would change from run to run. Let it draw '
                    'from the global generators, which mmcert seeds by the input, or keep it from '
                    'changing its state in testing. '
                    'If only the order of additions in several threads changes, set '
                    'OMP_NUM_THREADS=1'
                )
            print_log(
                f'{found}the certificates are of the model averaged over its own randomness, '
                'provided that this is independent from draw to draw, and votes of another run may '
                'differ. If kernels of the device are the cause, '
                'torch.use_deterministic_algorithms(True) may help',
                logger='current',
                level=logging.WARNING,
            )
        _DIFFERING.setdefault(self.base, {})[self._settings] = differing

    def to_dict(self) -> dict[str, Any]:
        """What certificates say of the arithmetic, once an input was labelled, as JSON values."""
        values = self.precision.to_dict(next(self.base.parameters()).device)
        if self._random.drawn:
            values['random_numbers'] = SEEDED
        if self.differing:
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
