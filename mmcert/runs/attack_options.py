"""How attacks go and how it is judged what they do, beside certificates."""

from __future__ import annotations

from dataclasses import dataclass

from mmcert.attacks import LOSSES, SEA_LOSSES, SEA_RADII, Steps

SCHEDULES = {'sea': SEA_RADII, 'fixed': ((1.0, 1.0),)}
"""Radii of the search, by name."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How it is judged what attacks do.

    Attributes:
        judged (int): New draws at each attacked input, whose majority is the attacked prediction.
        sure (int): Further new draws where a certified component has no majority among those; more
            are made where so few could not say that beyond doubt.
        level (float): A bound of the probability of any false alarm of the run.
        seed (int): Of all that is random.

    Raises:
        ValueError: If a value is out of range.
    """

    judged: int = 100
    sure: int = 1000
    level: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('judged', 'sure'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if not 0 < self.level < 1:
            raise ValueError(f'level must lie in (0, 1), got {self.level}')


@dataclass(frozen=True, kw_only=True)
class ParameterOptions(Judging):
    """How the parameters of transformations are attacked.

    Attributes:
        points (int): Points of an interval along each axis, its ends included.
        steps (int): Steps of the gradient search in an interval; 0 for none.
        draws (int): Noise draws of each of its gradients.

    Raises:
        ValueError: If a value is out of range.
    """

    points: int = 9
    steps: int = 10
    draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 2 or self.steps < 0 or self.draws < 1:
            raise ValueError(
                'needs points >= 2, steps >= 0 and draws >= 1, got '
                f'{self.points}, {self.steps} and {self.draws}'
            )


@dataclass(frozen=True, kw_only=True)
class L2Options(Judging):
    """How l2 attacks go, and how they are judged.

    Attributes:
        radii (tuple[float, ...]): Largest l2 norms of the attacks.
        losses (tuple[str, ...]): Names in ``mmcert.attacks.LOSSES``; each is an attack of its own
            on the base model and on the smoothed one. By default plain PGD and those of SEA.
        steps (int): Steps from each start.
        restarts (int): Starts of each attack.
        schedule (str): A name in ``SCHEDULES``.
        draws (int): Draws of each gradient of the smoothed model.
        weakest (float): Share of the certified components, those of fewest hits, that an attack of
            its own goes for.
        box (bool): Whether attacked images must lie in [0, 1].
        target (int | None): The class that attacks drive components to.
        hide (int | None): The class that attacks make unseen.

    Raises:
        ValueError: If a value is out of range.
    """

    radii: tuple[float, ...]
    losses: tuple[str, ...] = ('ce', *SEA_LOSSES)
    steps: int = 40
    restarts: int = 1
    schedule: str = 'sea'
    draws: int = 8
    weakest: float = 0.05
    box: bool = False
    target: int | None = None
    hide: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radii or not all(radius > 0 for radius in self.radii):
            raise ValueError(f'radii must be positive, got {list(self.radii)}')
        if unknown := set(self.losses) - set(LOSSES):
            raise ValueError(
                f'unknown losses {", ".join(sorted(unknown))}; known: {", ".join(LOSSES)}'
            )
        if not self.losses or self.schedule not in SCHEDULES:
            raise ValueError(
                f'needs a loss, and a schedule of {", ".join(SCHEDULES)}; got {self.losses} and '
                f'{self.schedule!r}'
            )
        if self.target is not None and self.hide is not None:
            raise ValueError('attacks either drive to a class or hide one')
        if self.draws < 1 or not 0 < self.weakest <= 1:
            raise ValueError(
                f'draws must be at least 1 and weakest lie in (0, 1], got {self.draws} and '
                f'{self.weakest}'
            )
        _ = self.search

    @property
    def search(self) -> Steps:
        """How each attack searches."""
        return Steps(self.steps, restarts=self.restarts, radii=SCHEDULES[self.schedule])
