"""Makes base models that draw random numbers functions of their input.

Smoothing certifies a function: the labels of a perturbed input must depend on that input alone.
Otherwise votes change with the batch, the process and the restart. A model that draws from the
global generators (torch's on the CPU and on the input's CUDA device, NumPy's, Python's) becomes
such a function when the content of each input seeds these generators.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from mmcert.sampling import input_digest

Result = TypeVar('Result')


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
