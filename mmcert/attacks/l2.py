"""Projected gradient ascent in l2 balls: the one engine of all attacks of bounded norm.

It knows no model. ``mmcert.attacks.smoothed`` and ``mmcert.attacks.losses`` make what it climbs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Evaluate = Callable[[torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]
"""Takes perturbations (B, ...) and how much of the search is done, in [0, 1); returns the loss of
each, which is climbed, and its score, by which the best one is kept; both of shape (B,)."""

SEA_RADII = ((0.3, 2.0), (0.3, 1.5), (0.4, 1.0))
"""Shares of the steps, and the radius in each of them in units of the real one: the schedule of
Croce et al., 'Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation
Models', ECCV 2024, where it is for linf balls."""

BISECTIONS = 60
"""Halvings that find how far a perturbation must shrink, in a box."""

ROOM = 1e-6
"""By which share a perturbation is made smaller, until rounding leads out of no ball."""


@dataclass(frozen=True, eq=False)
class Ball:
    """Perturbations of l2 norm at most ``radius``, maybe of which a box is not left.

    Attributes:
        radius (float): Largest norm of each perturbation.
        inputs (torch.Tensor | None): With a box: the inputs, shape (B, ...), which lie in it.
        box (tuple[float, float] | None): Least and largest value of a perturbed input. A
            certificate needs none: without it the attack is stronger.

    Raises:
        ValueError: If the radius is not positive, or an input lies outside of the box.

    Example:
        >>> Ball(1.0).project(torch.tensor([[3.0, 4.0], [0.0, 0.5]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.5000]])
    """

    radius: float
    inputs: torch.Tensor | None = None
    box: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise ValueError(f'radius must be positive, got {self.radius}')
        if self.box is None:
            return
        if self.inputs is None:
            raise ValueError('a box needs the inputs')
        low, high = (float(value) for value in self.inputs.aminmax())
        if not self.box[0] <= low <= high <= self.box[1]:
            raise ValueError(
                f'the input has values from {low:.4g} to {high:.4g}, outside of the box {self.box}'
            )

    def project(self, delta: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        """The nearest perturbations of the ball, whose radius is multiplied by ``factor``.

        Without a box that is delta, shortened. In a box the nearest point of both is
        clip(s delta) with the largest s in [0, 1] that the norm allows: the minimum of
        |d - delta|^2 + lambda |d|^2 over the box is taken value by value, at s = 1 / (1 + lambda).
        One after the other, the two projections would end at another point.
        """
        radius = self.radius * factor
        if self.box is None or self.inputs is None:
            return delta * (radius / norms(delta).clamp(min=1e-30)).clamp(max=1)
        low, high = (end - self.inputs for end in self.box)

        def clipped(share: torch.Tensor) -> torch.Tensor:
            return torch.minimum(torch.maximum(delta * share, low), high)

        whole = torch.ones_like(norms(delta))
        fits, too_long = torch.zeros_like(whole), whole
        for _ in range(BISECTIONS):
            middle = (fits + too_long) / 2
            inside = norms(clipped(middle)) <= radius
            fits, too_long = (
                torch.where(inside, middle, fits),
                torch.where(inside, too_long, middle),
            )
        return clipped(torch.where(norms(clipped(whole)) <= radius, whole, fits))

    def random(self, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Perturbations of random direction, as long as the ball lets them be."""
        drawn = torch.randn(like.shape, generator=generator, device=generator.device)
        drawn = drawn.to(like.device, like.dtype)
        return self.project(drawn * (self.radius / norms(drawn)))


@dataclass(frozen=True)
class Steps:
    """How the search goes.

    Attributes:
        steps (int): Steps from each start.
        first (float): Length of the first step, in units of the current radius.
        last (float | None): Length of the last one, reached geometrically; None for ``first``.
        restarts (int): Starts: the first from the input itself, others from random perturbations.
        radii (Sequence): Shares of the steps, and the radius in each of them in units of the real
            one, which the last must have; see ``SEA_RADII``. Each begins where the one before was
            best, projected.
        keep (str): 'best' returns the perturbation of largest score (ties by loss) of all that were
            looked at; 'last' the one at the end, and spares one evaluation.

    Raises:
        ValueError: If a value is out of range.
    """

    steps: int = 40
    first: float = 1.0
    last: float | None = 0.05
    restarts: int = 1
    radii: Sequence[tuple[float, float]] = ((1.0, 1.0),)
    keep: str = 'best'

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(
                f'needs steps >= 1 and restarts >= 1, got {self.steps} and {self.restarts}'
            )
        if not (self.first > 0 and (self.last is None or self.last > 0)):
            raise ValueError(f'steps must have a length, got {self.first} and {self.last}')
        if not self.radii or self.radii[-1][1] != 1:
            raise ValueError(f'the last of the radii must be the real one, got {self.radii}')
        if self.keep not in ('best', 'last'):
            raise ValueError(f"keep must be 'best' or 'last', got {self.keep!r}")
        if self.keep == 'last' and self.restarts > 1:
            raise ValueError("keep='last' goes with one start")

    @property
    def phases(self) -> list[tuple[int, float]]:
        """Steps at each radius; the last one takes what rounding left."""
        counts = [int(share * self.steps) for share, _ in self.radii[:-1]]
        factors = [factor for _, factor in self.radii]
        return list(zip([*counts, self.steps - sum(counts)], factors, strict=True))

    def length(self, step: int, count: int) -> float:
        """Length of one step of ``count`` at a radius, in units of that radius."""
        ratio = 1.0 if self.last is None else self.last / self.first
        return self.first * ratio ** (step / max(count - 1, 1))


@dataclass(frozen=True, eq=False)
class Ascent:
    """What a search found.

    Attributes:
        delta (torch.Tensor): The perturbations, shape (B, ...).
        loss (torch.Tensor): Their losses, shape (B,); NaN for ``keep='last'``, likewise:
        score (torch.Tensor): Their scores.
        history (torch.Tensor): The best score that was known after each evaluation, shape (T, B).
    """

    delta: torch.Tensor
    loss: torch.Tensor
    score: torch.Tensor
    history: torch.Tensor


class _Best:
    """The perturbation of largest score of each input, so far."""

    def __init__(self, like: torch.Tensor, wanted: bool) -> None:
        self.wanted = wanted
        self.delta = torch.zeros_like(like)
        self.loss = self.score = like.new_full((len(like),), -math.inf)

    def offer(
        self, delta: torch.Tensor, loss: torch.Tensor, score: torch.Tensor, fits: bool = True
    ) -> None:
        if not (self.wanted and fits):
            return
        loss, score = loss.detach().to(self.loss), score.detach().to(self.score)
        better = (score > self.score) | ((score == self.score) & (loss > self.loss))
        better &= loss.isfinite()
        self.delta = torch.where(_beside(better, delta), delta.detach(), self.delta)
        self.loss = torch.where(better, loss, self.loss)
        self.score = torch.where(better, score, self.score)


def ascend(
    evaluate: Evaluate,
    ball: Ball,
    like: torch.Tensor,
    steps: Steps,
    generator: torch.Generator | None = None,
) -> Ascent:
    """Searches a ball for perturbations of large loss, by projected gradient ascent.

    Each input has a perturbation, a norm and a best one of its own. A step goes along the gradient,
    whatever its length, and is projected (``Ball.project``).

    Args:
        evaluate (Callable): See ``Evaluate``; differentiable.
        ball (Ball): Where to search.
        like (torch.Tensor): The inputs, or a tensor of their shape (B, ...), dtype and device.
        steps (Steps): How.
        generator (torch.Generator | None): For random starts.

    Returns:
        Ascent: The best perturbations.

    Raises:
        ValueError: If random starts are asked for without a generator, or no loss is finite.

    Example:
        >>> slope = torch.tensor([[3.0, 4.0]])
        >>> found = ascend(lambda d, _: ((d * slope).sum(1),) * 2, Ball(1.0), slope, Steps(10))
        >>> found.delta, round(found.score.item(), 3)
        (tensor([[0.6000, 0.8000]]), 5.0)
    """
    if steps.restarts > 1 and generator is None:
        raise ValueError('random starts need a generator')
    best, history = _Best(like, steps.keep == 'best'), list[torch.Tensor]()
    for restart in range(steps.restarts):
        delta = torch.zeros_like(like)
        if restart:
            assert generator is not None
            delta = ball.random(like, generator)
        done, at_input = 0, restart == 0
        for count, factor in steps.phases:
            delta, here = ball.project(delta, factor), _Best(like, factor != 1)
            for step in range(count):
                delta = delta.detach().requires_grad_()
                with torch.enable_grad():
                    loss, score = evaluate(delta, done / steps.steps)
                    (slope,) = torch.autograd.grad(loss.sum(), delta)
                here.offer(delta, loss, score)
                # A start at the input itself lies in every ball.
                best.offer(delta, loss, score, fits=factor <= 1 or at_input)
                history.append(best.score)
                delta = _moved(delta.detach(), slope, steps.length(step, count), ball, factor)
                done, at_input = done + 1, False
            if factor != 1 and count:
                delta = here.delta
        if steps.keep == 'last':
            nothing = torch.full_like(best.loss, math.nan)
            return Ascent(delta, nothing, nothing, torch.stack(history))
        with torch.no_grad():
            best.offer(delta, *evaluate(delta, (done - 1) / steps.steps))
        history.append(best.score)
    if not bool(best.score.isfinite().all()):
        raise ValueError('the attack found nothing: its losses are not finite')
    return Ascent(best.delta, best.loss, best.score, torch.stack(history))


def _moved(
    delta: torch.Tensor, slope: torch.Tensor, length: float, ball: Ball, factor: float
) -> torch.Tensor:
    """A step along the gradient, in units of the radius, and back into the ball."""
    slope = slope.to(delta.dtype)
    direction = slope / norms(slope).clamp(min=1e-30)
    return ball.project(delta + length * ball.radius * factor * direction, factor)


def perturbed(inputs: torch.Tensor, delta: torch.Tensor, radius: float) -> torch.Tensor:
    """``inputs + delta``, one input, as near to it as ``radius``: rounding counts, too.

    The difference of the two tensors, computed in double precision, has at most this norm.
    """
    for attempt in range(1000):
        attacked = inputs + delta * (1 - attempt * ROOM)
        if float((attacked.double() - inputs.double()).norm()) <= radius:
            return attacked
    return inputs.clone()


def norms(tensors: torch.Tensor) -> torch.Tensor:
    """The l2 norm of each of (B, ...), as (B, 1, ...)."""
    return _beside(tensors.flatten(1).norm(dim=1), tensors)


def _beside(values: torch.Tensor, tensors: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (tensors.dim() - 1))
