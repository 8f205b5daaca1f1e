"""What a training step on noisy copies may minimise beside the segmentor's own losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmcert.attacks import Ball, Steps, ascend
from mmcert.attacks.smoothed import mean_logits
from mmcert.models.image_segmentor import rescaled
from mmcert.models.training_noise import ImageUnits
from mmcert.perturbations.noise_level import validate_positive
from mmcert.registry import MODELS


@dataclass
class TrainingStep:
    """One step, as objectives see it.

    Images are as they enter the model: normalised and padded.

    Attributes:
        clean (torch.Tensor): The images, shape (B, C, H, W).
        noisy (torch.Tensor): Their noisy copies, shape (M, B, C, H, W).
        labels (torch.Tensor): Class indices, shape (B, H, W).
        ignore_index (int): The label of what counts nowhere, padding included.
        iteration (int): Of the training.
        units (ImageUnits): Of the images.
        sizes (Sequence[tuple[int, int]]): Height and width of each image without its padding, which
            is below and to the right.
        forward (Callable): Takes images (N, C, H, W) to the head's logits (N, K, h, w) with the
            model as in testing: batch normalisation uses its running statistics and leaves them
            alone. They are resized where the model is trained at another scale.
        logits (torch.Tensor | None): The head's logits of the copies, shape (M, B, K, h, w), in
            single precision and with two channels for a binary head; None before the model ran.
    """

    clean: torch.Tensor
    noisy: torch.Tensor
    labels: torch.Tensor
    ignore_index: int
    iteration: int
    units: ImageUnits
    sizes: Sequence[tuple[int, int]]
    forward: Callable[[torch.Tensor], torch.Tensor]
    logits: torch.Tensor | None = None

    def labels_at(self, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels of the pixels nearest to the points of a grid, and whether there is one.

        Both have the shape (B, *size); where there is no label the class is 0.
        """
        nearest = F.interpolate(self.labels[:, None].float(), tuple(size), mode='nearest-exact')
        labels = nearest[:, 0].long()
        labelled = labels != self.ignore_index
        return torch.where(labelled, labels, 0), labelled

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of values (..., B, h, w) over the labelled points of their grid; 0 for none."""
        _, labelled = self.labels_at(tuple(values.shape[-2:]))
        # What is not finite where nothing is labelled must not count either.
        kept = torch.where(labelled, values, 0.0)
        return kept.sum(dim=(-3, -2, -1)).mean() / labelled.sum().clamp(min=1)


class Objective:
    """A part of a training recipe; an instance belongs to one training.

    Attributes:
        needs_logits (bool): Whether it reads ``TrainingStep.logits``.
        replaces_loss (bool): Whether its losses stand in for those of the decode head; those of
            auxiliary heads stay.
    """

    needs_logits: bool = True
    replaces_loss: bool = False

    def start(self, model: Any) -> None:
        """Called once before training, with the segmentor on its device."""

    def change(self, step: TrainingStep) -> None:
        """May replace ``step.noisy`` before the model sees it."""

    def losses(self, step: TrainingStep) -> dict[str, torch.Tensor]:
        """Scalars by name; those with 'loss' in their name are added to the segmentor's own."""
        return {}


def with_two_channels(logits: torch.Tensor) -> torch.Tensor:
    """Logits (N, K, h, w) in single precision, a binary head's with a channel for background."""
    logits = logits.float()
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


@MODELS.register_module()
class Consistency(Objective):
    r"""Consistency regularisation: the noisy copies of a pixel should agree, and be sure.

    lbd * mean_i KL(p || p_i) + eta * H(p), where p_i is the softmax of copy i and p its mean over
    the copies, at every point of the head's grid; and the mean over the points with a label.
    Source: Jeong and Shin, "Consistency Regularization for Certified Robustness of Smoothed
    Classifiers", NeurIPS 2020. SegCertify's paper names it as a way to better base models.

    Args:
        lbd (float): Weight of the divergence; the paper takes 5 to 20.
        eta (float): Weight of the entropy.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> Consistency(lbd=10, eta=0.5).lbd
        10
    """

    def __init__(self, lbd: float = 10.0, eta: float = 0.5) -> None:
        if not (0 <= lbd < math.inf and 0 <= eta < math.inf):
            raise ValueError(f'lbd and eta must be at least 0, got {lbd} and {eta}')
        self.lbd, self.eta = lbd, eta

    def losses(self, step: TrainingStep) -> dict[str, torch.Tensor]:
        """``loss_consistency`` and ``loss_entropy``."""
        assert step.logits is not None
        logs = step.logits.log_softmax(dim=2)
        probabilities = logs.exp().mean(dim=0)
        mean_log = probabilities.clamp(min=1e-12).log()
        divergence = (probabilities * (mean_log - logs.mean(dim=0))).sum(dim=1)
        entropy = -(probabilities * mean_log).sum(dim=1)
        return {
            'loss_consistency': self.lbd * step.mean(divergence),
            'loss_entropy': self.eta * step.mean(entropy),
        }


@MODELS.register_module()
class SmoothAdv(Objective):
    r"""Adversarial training of the smoothed model: the noisy copies are attacked together.

    One perturbation v of the image, of l2 norm at most ``epsilon`` over the whole image, is added
    to all its copies. Projected gradient ascent raises -log mean_i softmax(f(x + v + e_i))[y],
    summed over the labelled points of the head's grid, with the same noise e_i in all steps and in
    the training step that follows. Source: Salman et al., "Provably Robust Deep Learning via
    Adversarially Trained Smoothed Classifiers", NeurIPS 2019 (SmoothAdv-PGD); the sum over points
    is ours. Each step of the attack costs somewhat more than half of a training step.

    The attack computes gradients of the images alone, with the model as in testing.

    Args:
        epsilon (float): Largest l2 norm of the attack, in [0, 1] image units.
        steps (int): Steps of the attack.
        step_size (float | None): Length of a step; None for 2 * epsilon / steps.
        warmup (int): Iterations over which ``epsilon`` rises linearly from 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> SmoothAdv(epsilon=0.5, steps=4).step_size
        0.25
    """

    needs_logits = False

    def __init__(
        self, epsilon: float, steps: int = 2, step_size: float | None = None, warmup: int = 0
    ) -> None:
        self.epsilon = validate_positive(epsilon, 'epsilon')
        if steps < 1 or warmup < 0:
            raise ValueError(f'needs steps >= 1 and warmup >= 0, got {steps} and {warmup}')
        self.steps, self.warmup = steps, warmup
        length = 2 * self.epsilon / steps if step_size is None else step_size
        self.step_size = validate_positive(length, 'step_size')

    def change(self, step: TrainingStep) -> None:
        """Adds the attack to the noisy copies."""
        step.noisy = step.noisy + self.attack(step) * step.units.per_unit

    def attack(self, step: TrainingStep) -> torch.Tensor:
        """The attack on each image, shape (B, C, H, W), in [0, 1] image units."""
        share = min(1.0, (step.iteration + 1) / self.warmup) if self.warmup else 1.0
        inside = torch.zeros_like(step.clean[:, :1])
        for index, (height, width) in enumerate(step.sizes):
            inside[index, :, :height, :width] = 1

        def evaluate(attack: torch.Tensor, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
            cost = self.cost(step, attack * inside)
            return cost, cost

        steps = Steps(self.steps, self.step_size / self.epsilon, None, keep='last')
        return ascend(evaluate, Ball(share * self.epsilon), step.clean, steps).delta

    def cost(self, step: TrainingStep, attack: torch.Tensor) -> torch.Tensor:
        """What the attack raises, of each image, shape (B,)."""
        images = step.noisy + attack * step.units.per_unit
        logits = step.forward(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        logs = mean_logits(logits, dim=2)
        labels, labelled = step.labels_at(tuple(logs.shape[-2:]))
        wrong = -logs.gather(1, labels[:, None])[:, 0]
        return (wrong * labelled).sum(dim=(1, 2))


@MODELS.register_module()
class CATRS(Objective):
    r"""Confidence-aware training: each pixel learns from as many copies as it can be sure of.

    A pixel that p of its M noisy copies get right learns from the K copies of smallest
    cross-entropy, with K ~ Bin(M, p) and K >= 1: noise that destroys a pixel teaches it nothing. A
    pixel with K = M also learns from its worst copy. The loss replaces that of the decode head:
    sum of the K smallest / M + lbd * [K = M] * the largest. Source: Jeong, Kim and Shin,
    "Confidence-aware Training of Smoothed Classifiers for Certified Robustness", AAAI 2023. There
    the worst copy is found by an attack on the noise, here it is the worst of those drawn, which
    costs no further pass.

    It stands here rather than SmoothMix (Jeong et al., NeurIPS 2021), since confidence differs from
    pixel to pixel of an image, and this loss follows it. SmoothMix mixes an image with an
    adversarial one of its own by one factor, and the label with it: one margin for all pixels.

    Args:
        lbd (float): Weight of the worst copy.

    Raises:
        ValueError: If the weight is negative.

    Example:
        >>> CATRS(lbd=0.5).replaces_loss
        True
    """

    replaces_loss = True

    def __init__(self, lbd: float = 0.5) -> None:
        if not 0 <= lbd < math.inf:
            raise ValueError(f'lbd must be at least 0, got {lbd}')
        self.lbd = lbd

    def losses(self, step: TrainingStep) -> dict[str, torch.Tensor]:
        """``loss_low`` of the copies that a pixel learns from, ``loss_high`` of its worst."""
        assert step.logits is not None
        copies = len(step.logits)
        labels, _ = step.labels_at(tuple(step.logits.shape[-2:]))
        index = labels[None, :, None].expand(copies, -1, -1, -1, -1)
        wrong = -step.logits.log_softmax(dim=2).gather(2, index)[:, :, 0]
        right = (step.logits.argmax(dim=2) == labels).float().mean(dim=0)
        taken = (torch.rand_like(wrong) < right).sum(dim=0).clamp(min=1)
        ranks = torch.arange(copies, device=wrong.device)[:, None, None, None]
        smallest = wrong.sort(dim=0).values
        low = torch.where(ranks < taken, smallest, 0.0).sum(dim=0) / copies
        high = torch.where(taken == copies, smallest[-1], 0.0)
        return {'loss_low': step.mean(low), 'loss_high': self.lbd * step.mean(high)}


@MODELS.register_module()
class Distillation(Objective):
    r"""A teacher's answer on the clean image as the target of all noisy copies.

    weight * T^2 * KL(softmax(t / T) || softmax(s / T)) for the teacher's logits t, resized to the
    student's grid, and the student's logits s, at the points with a label. Source: Hinton, Vinyals
    and Dean, "Distilling the Knowledge in a Neural Network", 2015. The teacher is no part of the
    model: it is not trained, and not in its checkpoints.

    Args:
        teacher (Mapping): ``config``, the path of a config whose ``model`` is the teacher;
            ``checkpoint``, its weights; and, if wanted, ``scale``, the factor by which the
            teacher's input is resized.
        temperature (float): T.
        weight (float): Weight of the loss.

    Raises:
        ValueError: If an argument is missing, unknown or out of range.

    Example:
        >>> teacher = dict(config='clean.py', checkpoint='clean.pth')
        >>> Distillation(teacher, temperature=2.0).temperature
        2.0
    """

    def __init__(
        self, teacher: Mapping[str, Any], temperature: float = 1.0, weight: float = 1.0
    ) -> None:
        known = {'config', 'checkpoint', 'scale'}
        if not {'config', 'checkpoint'} <= set(teacher) <= known:
            raise ValueError(
                f'teacher needs config and checkpoint, and takes scale; got {sorted(teacher)}'
            )
        self.source = dict(teacher)
        self.scale = validate_positive(teacher.get('scale', 1.0), 'scale')
        self.temperature = validate_positive(temperature, 'temperature')
        self.weight = validate_positive(weight, 'weight')
        self.teacher: Any = None

    def start(self, model: Any) -> None:
        """Loads the teacher to the segmentor's device.

        Raises:
            ValueError: If it has other classes or another order of channels than the segmentor.
        """
        from mmengine.config import Config
        from mmengine.runner import load_checkpoint

        teacher = MODELS.build(Config.fromfile(self.source['config']).model)
        load_checkpoint(teacher, self.source['checkpoint'], map_location='cpu', strict=True)
        if teacher.num_classes != model.num_classes:
            raise ValueError(
                f'the teacher has {teacher.num_classes} classes, the model {model.num_classes}'
            )
        teacher.requires_grad_(False).eval().to(next(model.parameters()).device)
        self.teacher, self.units = teacher, ImageUnits.of(teacher)
        if self.units.reversed_channels != ImageUnits.of(model).reversed_channels:
            raise ValueError('the teacher takes the channels of an image in another order')

    def losses(self, step: TrainingStep) -> dict[str, torch.Tensor]:
        """``loss_distillation``."""
        assert step.logits is not None
        target = (self.answer(step, step.logits.shape[-2:]) / self.temperature).softmax(dim=1)
        logs = (step.logits / self.temperature).log_softmax(dim=2)
        own = (target * target.clamp(min=1e-12).log()).sum(dim=1)
        divergence = own - (target * logs).sum(dim=2)
        return {'loss_distillation': self.weight * self.temperature**2 * step.mean(divergence)}

    @torch.no_grad()
    def answer(self, step: TrainingStep, size: Sequence[int]) -> torch.Tensor:
        """The teacher's logits on the clean images, shape (B, K, *size)."""
        images = self.units.from_unit(step.units.to_unit(step.clean))
        logits = with_two_channels(self.teacher(rescaled(images, self.scale), mode='tensor'))
        return F.interpolate(logits, tuple(size), mode='bilinear', align_corners=False)
