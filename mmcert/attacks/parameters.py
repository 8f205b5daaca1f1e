"""Adaptive attacks on the parameter of a transformation: empirical counterparts of certificates.

What an attack finds is an upper bound of the robustness, as a certificate is a lower one: a pixel
that is certified for a set of parameters is right at all of them, up to the certificate's error
probability, if it is right on the clean image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mmcert.transformations import (
    IGNORE_INDEX,
    Geometric,
    Transformation,
    check_images,
    check_labels,
)
from mmcert.transformations.base import Values
from mmcert.transformations.operators import read_bilinear

Predict = Callable[[torch.Tensor], torch.Tensor]

FIRST_STEP, LAST_STEP = 1 / 4, 1 / 400
"""Lengths of the first and of the last step of the gradient search, in widths of the box."""

LEAST_PROBABILITY = 1e-6
"""Smaller probabilities count as this one, so that no single pixel rules the loss."""


@dataclass(frozen=True, eq=False)
class ParameterAttack:
    """What an attack on the parameter of a transformation found on one image.

    Attributes:
        parameters (torch.Tensor): What was tried, shape (N, P), float64.
        accuracy (torch.Tensor): Share of the labelled pixels that are right at each, shape (N,),
            float64.
        robust (torch.Tensor): Pixels that are labelled and right at all of them, shape (H, W),
            bool.
        worst (torch.Tensor): The first parameter of least accuracy, shape (P,).
        labels (torch.Tensor): Labels at the worst parameter as they were scored, shape (H, W).
            Where labels move with the content, they are those of each clean pixel's content, and
            ``ignore_index`` if it left the frame.
    """

    parameters: torch.Tensor
    accuracy: torch.Tensor
    robust: torch.Tensor
    worst: torch.Tensor
    labels: torch.Tensor


def exhaustive(
    predict: Predict,
    image: torch.Tensor,
    transformation: Transformation,
    parameters: torch.Tensor | Sequence[Any],
    label: torch.Tensor,
    ignore_index: int = IGNORE_INDEX,
) -> ParameterAttack:
    """Tries every parameter of a finite set.

    For a model that draws no random numbers this is more than an attack: it verifies the set
    completely, without draws and without an error probability. A ``robust`` pixel is right at each
    of these parameters; nothing is said of any other. The majority over draws of a smoothed model
    is random, and this is an attack on it.

    If the transformation moves labels with the content (``moves_labels``), the labels of the
    transformed image are read where each clean pixel's content went. Content that left the frame is
    wrong, as it is for the certificate.

    Args:
        predict (Callable): Labels (H, W) of an image (C, H, W): the base model's, or the smoothed
            one's, such as a majority over draws.
        image (torch.Tensor): Shape (C, H, W), floating point, in [0, 1].
        transformation (Transformation): The attack.
        parameters (torch.Tensor | Sequence): The set, shape (N, P), or (N,) if P = 1.
        label (torch.Tensor): Ground truth of the clean image, shape (H, W), integers.
        ignore_index (int): Ground truth of pixels that do not count.

    Raises:
        ValueError: If the set is empty or a parameter out of range, shapes do not fit, no pixel is
            labelled, or predictions are no label map.
    """
    rows = transformation.finite(parameters)
    labelled = _labelled(image, label, ignore_index)
    robust = labelled
    accuracy = torch.empty(len(rows), dtype=torch.float64)
    worst, labels = 0, label
    for number, row in enumerate(rows):
        found = _scored_labels(predict, image, transformation, row, ignore_index).to(label.device)
        right = labelled & (found == label)
        robust = robust & right
        accuracy[number] = int(right.sum()) / int(labelled.sum())
        if number == 0 or accuracy[number] < accuracy[worst]:
            worst, labels = number, found
    return ParameterAttack(rows, accuracy, robust, rows[worst], labels)


def gradient(
    scores: Callable[[torch.Tensor], torch.Tensor],
    predict: Predict,
    image: torch.Tensor,
    transformation: Transformation,
    low: Values,
    high: Values,
    label: torch.Tensor,
    *,
    generator: torch.Generator,
    steps: int = 20,
    restarts: int = 4,
    draws: int = 1,
    judged: int = 4,
    ignore_index: int = IGNORE_INDEX,
) -> ParameterAttack:
    """Searches a box of parameters by gradient ascent on the loss of the smoothed scores.

    The loss is the cross entropy of the softmax averaged over ``draws`` copies of the transformed
    image, on which ``scores`` may draw its own noise: expectation over transformation (Athalye et
    al., 'Synthesizing robust adversarial examples', ICML 2018), with the loss outside of the mean
    (Salman et al., 'Provably robust deep learning via adversarially trained smoothed classifiers',
    NeurIPS 2019). The search starts from all corners of the box and from random points, follows the
    gradient's sign in shorter and shorter steps, and stays in the box. Of the best points of the
    starts, those of largest loss are tried by ``predict``, as in ``exhaustive``; the result has
    them by falling loss.

    If labels move with the content, probabilities are read where each clean pixel's content went,
    0 outside of the frame.

    Args:
        scores (Callable): Logits or log-probabilities (B, classes, H, W) of images (B, C, H, W),
            differentiable.
        predict (Callable): As for ``exhaustive``; it judges the parameters.
        image (torch.Tensor): Shape (C, H, W), floating point, in [0, 1].
        transformation (Transformation): The attack.
        low (torch.Tensor | Sequence | float): Lower ends of the box, shape (P,).
        high (torch.Tensor | Sequence | float): Upper ends.
        label (torch.Tensor): Ground truth of the clean image, shape (H, W), integers.
        generator (torch.Generator): Draws the random starts, float64, on its own device.
        steps (int): Steps from each start, at least 0.
        restarts (int): Random starts beside the corners, at least 0.
        draws (int): Copies of the transformed image in each step, at least 1.
        judged (int): How many parameters are tried at most, at least 1.
        ignore_index (int): Ground truth of pixels that do not count.

    Raises:
        ValueError: If no gradient reaches the parameter (use ``exhaustive``), a number or an end
            is out of range, scores do not fit or are not finite, or as for ``exhaustive``.
    """
    least = {'steps': 0, 'restarts': 0, 'draws': 1, 'judged': 1}
    for name, value in zip(least, (steps, restarts, draws, judged), strict=True):
        if value < least[name]:
            raise ValueError(f'{name} must be at least {least[name]}, got {value}')
    _labelled(image, label, ignore_index)
    corners = transformation.grid(low, high, 2)
    first, last = corners[0], corners[-1]
    drawn = torch.rand(
        restarts, len(first), dtype=torch.float64, generator=generator, device=generator.device
    )
    starts = torch.cat([corners, first + drawn.cpu() * (last - first)])

    def climbed(start: torch.Tensor) -> tuple[float, torch.Tensor]:
        place, best = start, (-torch.inf, start)
        for step in range(steps + 1):
            place = place.detach().requires_grad_()
            loss = _loss(scores, image, transformation, place, label, draws, ignore_index)
            best = max(best, (float(loss), place.detach()), key=lambda found: found[0])
            if step < steps:
                (slope,) = torch.autograd.grad(loss, place)
                length = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (step / max(steps - 1, 1))
                place = (place + length * (last - first) * slope.sign()).clamp(first, last)
        return best

    found = sorted((climbed(start) for start in starts), key=lambda found: -found[0])
    tried = torch.stack([place for _, place in found])
    keep = [k for k in range(len(tried)) if not (tried[:k] == tried[k]).all(dim=1).any()]
    tried = tried[keep[:judged]]
    return exhaustive(predict, image, transformation, tried, label, ignore_index)


def _labelled(image: torch.Tensor, label: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Which pixels count, shape (H, W), after a check of image and ground truth."""
    check_images(image[None])
    check_labels(label[None])
    if label.shape != image.shape[1:]:
        raise ValueError(
            f'a label map of shape {tuple(label.shape)} does not fit an image of shape '
            f'{tuple(image.shape)}'
        )
    labelled = label != ignore_index
    if not labelled.any():
        raise ValueError(f'no pixel is labelled: all are {ignore_index}')
    return labelled


@torch.no_grad()
def _scored_labels(
    predict: Predict,
    image: torch.Tensor,
    transformation: Transformation,
    row: torch.Tensor,
    ignore_index: int,
) -> torch.Tensor:
    """Labels predicted at a parameter, shape (H, W), at the positions of the clean image."""
    labels = predict(transformation(image[None], row)[0])
    check_labels(labels[None])
    if labels.shape != image.shape[1:]:
        raise ValueError(
            f'predictions must have shape {tuple(image.shape[1:])}, got {tuple(labels.shape)}'
        )
    if isinstance(transformation, Geometric):
        return transformation.labels_of_content(labels[None], row, ignore_index)[0]
    return labels


def _loss(
    scores: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    transformation: Transformation,
    place: torch.Tensor,
    label: torch.Tensor,
    draws: int,
    ignore_index: int,
) -> torch.Tensor:
    """Cross entropy of the mean softmax over draws at a parameter of shape (P,)."""
    attacked = transformation(image[None].detach(), place)
    if not attacked.requires_grad:
        raise ValueError(
            f'{transformation!r}: no gradient reaches the parameter; use exhaustive with a finite '
            'set of parameters'
        )
    found = scores(attacked.expand(draws, -1, -1, -1))
    if found.dim() != 4 or len(found) != draws or found.shape[2:] != label.shape:
        raise ValueError(
            f'scores must have shape ({draws}, classes, {label.shape[0]}, {label.shape[1]}), got '
            f'{tuple(found.shape)}'
        )
    mean = found.softmax(dim=1).mean(dim=0, keepdim=True)
    if isinstance(transformation, Geometric):
        moved = transformation.moved(place[None].to(mean.device), *label.shape)
        padding = 'cyclic' if transformation.padding == 'cyclic' else 'zeros'
        mean = read_bilinear(mean, moved, padding)
    logs = mean.clamp(min=LEAST_PROBABILITY).log()
    loss = F.nll_loss(logs, label[None].long().to(mean.device), ignore_index=ignore_index)
    if not loss.isfinite():
        raise ValueError(f'scores are not finite at {place.tolist()}')
    return loss
