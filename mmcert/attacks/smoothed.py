"""Attacks on a model and on its smoothed version, by the gradient of their scores."""

from collections.abc import Callable

import torch

from mmcert.attacks.l2 import Ascent, Ball, Steps, ascend
from mmcert.attacks.losses import Goal
from mmcert.perturbations import Perturbation

Scores = Callable[[torch.Tensor], torch.Tensor]
"""A segmentor as a differentiable function: inputs (B, ...) to logits (B, K, ...), the largest of
which is the label. ``segmentor.scores`` of mmcert's adapters is one, with all that is between the
input and the labels: denoiser, scaling, normalisation, resized logits."""

AVERAGES = ('probabilities', 'losses')
"""What is averaged over the draws of a smoothed model."""


class SmoothedScores:
    """The smoothed model under attack: an expectation over the noise that has a gradient.

    The label of the smoothed model is a majority over draws, and has none. What stands for it is
    the softmax, averaged over some draws: the loss is then that of the mean (Salman et al.,
    'Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers', NeurIPS 2019);
    with ``average='losses'`` it is the mean of the losses (Athalye et al., 'Synthesizing Robust
    Adversarial Examples', ICML 2018). Gradients go straight through the rounding of the noisy
    input, see ``Perturbation.apply_differentiably``.

    Args:
        scores (Callable): See ``Scores``.
        perturbation (Perturbation): The smoothing.
        draws (int): Draws of each evaluation.
        generator (torch.Generator): On the CPU; it gives the seeds of all draws.
        fresh (bool): Whether each evaluation has draws of its own. If all have the same, the search
            climbs a fixed function, and the best so far is the best; with fresh ones it is also the
            luckiest.
        average (str): One of ``AVERAGES``.

    Raises:
        ValueError: If a value is out of range, or content moves under the perturbation.
    """

    def __init__(
        self,
        scores: Scores,
        perturbation: Perturbation,
        draws: int,
        generator: torch.Generator,
        fresh: bool = False,
        average: str = 'probabilities',
    ) -> None:
        if draws < 1:
            raise ValueError(f'draws must be at least 1, got {draws}')
        if average not in AVERAGES:
            raise ValueError(f'average must be one of {", ".join(AVERAGES)}, got {average!r}')
        if perturbation.moves_labels:
            raise ValueError(
                f'{perturbation!r} moves the content of its input: there is no l2 attack on it'
            )
        self.scores, self.perturbation, self.draws = scores, perturbation, draws
        self.generator, self.fresh, self.average = generator, fresh, average
        self._seeds: list[int] = []

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of one input (1, ...): (1, K, ...), or (draws, K, ...) for mean losses."""
        (attacked,) = inputs
        if self.fresh or not self._seeds:
            self._seeds = torch.randint(2**31, (self.draws,), generator=self.generator).tolist()
        generators = [torch.Generator(attacked.device).manual_seed(seed) for seed in self._seeds]
        parameters = self.perturbation.draw(attacked.detach(), generators)
        logits = self.scores(self.perturbation.apply_differentiably(attacked, parameters))
        return logits if self.average == 'losses' else mean_logits(logits)[None]


def mean_logits(logits: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """The logarithm of the softmax over ``dim``, averaged over draws (D, ...), without D.

    A mean that is too small for its dtype counts as the least number, and has no gradient.
    """
    mean = logits.softmax(dim=dim).mean(dim=0)
    return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()


def attack_input(
    scores: Scores,
    inputs: torch.Tensor,
    goal: Goal,
    radius: float,
    *,
    steps: Steps | None = None,
    box: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
) -> Ascent:
    """Attacks one input, shape (...): what ``ascend`` finds for a goal.

    Args:
        scores (Callable): The base model as ``Scores``, or its ``SmoothedScores``.
        inputs (torch.Tensor): The input, in the units of the radius.
        goal (Goal): What the attack wants.
        radius (float): Largest l2 norm.
        steps (Steps | None): How to search.
        box (tuple[float, float] | None): See ``Ball``; (0, 1) leaves an image one.
        generator (torch.Generator | None): For random starts.

    Returns:
        Ascent: ``delta`` has the shape (1, ...). ``perturbed`` adds it to the input.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> def brightness(images):  # Class 1 where a pixel is brighter than 1/2.
        ...     margin = images[:, 0] - 0.5
        ...     return torch.stack([-margin, margin], dim=1)
        >>> image = torch.tensor([[[0.45, 0.9]]])
        >>> goal = Goal(torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=bool))
        >>> found = attack_input(brightness, image, goal, radius=0.1)
        >>> int(found.score), brightness(image + found.delta).argmax(dim=1).tolist()
        (1, [[[1, 1]]])
    """
    batch = inputs[None]

    def evaluate(delta: torch.Tensor, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        return goal.evaluate(scores(batch + delta), progress)

    return ascend(evaluate, Ball(radius, batch, box), batch, steps or Steps(), generator)
