"""What a training step on noisy copies may minimise beside the segmentor's own losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmcert.models.training_noise import ImageUnits
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
        forward (Callable): Takes images (N, C, H, W) to the head's logits (N, K, h, w), resized on
            the way where the model is trained at another scale.
        logits (torch.Tensor | None): The head's logits of the copies, shape (M, B, K, h, w), in
            single precision and with two channels for a binary head; None before the model ran.
    """

    clean: torch.Tensor
    noisy: torch.Tensor
    labels: torch.Tensor
    ignore_index: int
    iteration: int
    units: ImageUnits
    forward: Callable[[torch.Tensor], torch.Tensor]
    logits: torch.Tensor | None = None

    def weights(self, size: tuple[int, int]) -> torch.Tensor:
        """The share of labelled pixels around each point of a grid, shape (B, *size)."""
        labelled = (self.labels != self.ignore_index).float()
        return F.adaptive_avg_pool2d(labelled[:, None], size)[:, 0]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of values (..., B, h, w) over the labelled part of their grid."""
        weights = self.weights(values.shape[-2:])  # type: ignore[arg-type]
        total = weights.sum().clamp(min=torch.finfo(weights.dtype).eps)
        # What is not finite where nothing is labelled must not count either.
        kept = torch.where(weights > 0, values, 0.0) * weights
        return kept.sum(dim=(-3, -2, -1)).mean() / total


class Objective:
    """A part of a training recipe; an instance belongs to one training.

    Attributes:
        needs_logits (bool): Whether it reads ``TrainingStep.logits``.
    """

    needs_logits: bool = True

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
    the copies, at every point of the head's grid, and the mean over the points with a label.
    Source: Jeong and Shin, "Consistency Regularization for Certified Robustness of Smoothed
    Classifiers", NeurIPS 2020, equation 10. SegCertify's paper names it as a way to better base
    models.

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
        if lbd < 0 or eta < 0:
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
