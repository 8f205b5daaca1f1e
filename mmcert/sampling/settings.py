"""How the votes of one input are sampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.checks import check_draws
from mmcert.sampling.batching import BatchSize


@dataclass(frozen=True, eq=False)
class SamplingSettings:
    """How many draws to take of one input, and what to count of them.

    Attributes:
        n0 (int): Number of selection draws. With 0 the estimation draws choose the guess as well.
        n (int | None): Number of estimation draws, at least 1; None where looks decide, or nothing
            is drawn: an enumeration has n0 = 0 and n = None.
        num_classes (int): Number of classes C; labels lie in [0, C).
        seed (int): Seed of the run.
        batch_size (int | str | BatchSize): Inputs per call of the base model, at least 1, or
            'auto'. It is halved where memory runs out. A ``BatchSize`` carries what was found over
            to the next input.
        groups (Sequence[np.ndarray]): For each level of a hierarchy, finest first, the group of
            each class, integers, shape (C,). The votes then hold the counts of these groups too.

    Raises:
        ValueError: If a value is out of range, or groups come without selection draws.

    Examples:
        >>> SamplingSettings(n0=10, n=100, num_classes=19).batch_size
        8
        >>> SamplingSettings(n0=10, n=0, num_classes=19)
        Traceback (most recent call last):
        ...
        ValueError: n must be an integer of at least 1, got 0
    """

    n0: int
    n: int | None
    num_classes: int
    seed: int = 0
    batch_size: int | str | BatchSize = 8
    groups: Sequence[ArrayLike] = ()

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.n0 != 0 or isinstance(self.n0, bool):
            check_draws(self.n0, 'n0')
        elif len(self.groups):
            raise ValueError('a hierarchy needs selection draws: n0 must be at least 1')
        if self.n is not None:
            check_draws(self.n)
        check_draws(self.num_classes, 'num_classes')
        BatchSize.of(self.batch_size)
        groups: list[NDArray[np.int64]] = [np.asarray(level, np.int64) for level in self.groups]
        for level in groups:
            if level.shape != (self.num_classes,):
                raise ValueError(
                    f'groups must give one group for each of {self.num_classes} classes, got shape '
                    f'{level.shape}'
                )
        object.__setattr__(self, 'groups', tuple(groups))
