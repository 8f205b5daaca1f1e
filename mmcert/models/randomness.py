"""Makes base models that draw random numbers functions of their input.

Smoothing certifies a function: the labels of a perturbed input must depend on that input alone.
Otherwise votes change with the batch, the process and the restart. A model that draws from the
global generators (torch's on the CPU and on the input's CUDA device, NumPy's, Python's) becomes
such a function when the content of each input seeds these generators.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel

from mmcert.certifier.segmentor import Labelled, UnrepeatableModelError, count_differing
from mmcert.sampling import input_digest

Result = TypeVar('Result')

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


class GeneratorStates:
    """The present states of the global generators that a model may draw from.

    On a CUDA ``device``, that of the model's input, its generator counts as well.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == 'cuda' else None
        # The legacy form takes several times as long.
        self._numpy: Any = np.random.get_state(legacy=False)
        self._python = random.getstate()

    def advanced(self) -> bool:
        """Whether any of the generators has changed its state since."""
        now = GeneratorStates(self.device)
        return not (
            torch.equal(self._torch, now._torch)
            and (self._cuda is None or torch.equal(self._cuda, now._cuda))  # type: ignore[arg-type]
            and _values(self._numpy) == _values(now._numpy)
            and self._python == now._python
        )

    def restore(self) -> None:
        """Gives the generators these states again."""
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self.device)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


def _values(state: dict[str, Any]) -> tuple[Any, ...]:
    """A state of NumPy's generator as values that can be compared."""
    inner = state['state']
    return inner['key'].tobytes(), inner['pos'], state['has_gauss'], state['gauss']


@contextlib.contextmanager
def seeded(number: int, device: torch.device) -> Iterator[GeneratorStates]:
    """Seeds the global generators with a number in [0, 2^32), and restores them at the end.

    On a CUDA device its generator is seeded as well; those of other devices are left alone. Yields
    the states after seeding.
    """
    states = GeneratorStates(device)
    try:
        torch.default_generator.manual_seed(number)
        if device.type == 'cuda':
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        yield GeneratorStates(device)
    finally:
        states.restore()


def content_number(tensor: torch.Tensor) -> int:
    """A number in [0, 2^32) that a tensor's content decides."""
    return int.from_bytes(input_digest(tensor)[:4], 'little')


class RandomNumbers:
    """Runs a model so that what it makes of an input depends on that input alone.

    A pass over a batch counts only if it left the global generators as they were. Otherwise the
    inputs go through the model again, one by one, each under generators that its own content seeds,
    and so do all later ones at once. So the result does not depend on the pass, on the other inputs
    of the batch, or on where a run was resumed.

    Passes over a batch begin from one fixed state of the generators. A model that draws numbers in
    its first pass and keeps them keeps the same ones in every process.

    Attributes:
        together (bool): Whether a batch may go through the model at once. If not, every input is
            by itself and seeded from the beginning.
        drawn (bool): Whether the model was seen to draw random numbers for an input by itself.
    """

    def __init__(self, together: bool = True) -> None:
        self.together = together
        self.drawn = False

    def run(self, model: Callable[[torch.Tensor], Result], batch: torch.Tensor) -> list[Result]:
        """Runs the model, and leaves the global generators as they were.

        The model takes a batch (B', ...), of 1 or all B inputs. Returns what it made of the
        ``batch``, alone; or of each of its B >= 1 inputs.
        """
        if self.together:
            with seeded(0, batch.device) as before:
                result = model(batch)
                drawn = before.advanced()
            if not drawn:
                return [result]
            del result  # Its memory is needed.
        results = []
        for one in batch:
            with seeded(content_number(one), batch.device) as before:
                results.append(model(one[None]))
                self.drawn |= before.advanced()
        self.together &= not self.drawn
        return results


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """What ``RandomNumbers.run`` returned as one batch; not copied if it is one already."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


_DIFFERING: WeakKeyDictionary[BaseModel, dict[Hashable, int]] = WeakKeyDictionary()
"""Of each model and its settings: components at which two passes differed."""


class Repeatability:
    """Whether a model gives the same labels again: tested once for a model and its settings.

    The ``settings`` are everything about its use that may change its output.
    """

    def __init__(self, base: BaseModel, *settings: Hashable) -> None:
        self.base = base
        self.settings = (next(base.parameters()).device, *settings)

    @property
    def differing(self) -> int | None:
        """Components at which two passes differed; None before the test."""
        return _DIFFERING.get(self.base, {}).get(self.settings)

    def check(self, first: Labelled, again: Callable[[], Labelled]) -> None:
        """Compares a pass over an input with another one, unless that was done before.

        Raises:
            UnrepeatableModelError: If labels, or margins by more than a step, differ and the model
                is on the CPU.
        """
        if self.differing is not None:
            return
        differing = count_differing(first, again())
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
                    'from the global generators, which mmcert seeds by the input, make its '
                    'generator anew in every pass, or keep it from changing its state in testing. '
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
        _DIFFERING.setdefault(self.base, {})[self.settings] = differing
