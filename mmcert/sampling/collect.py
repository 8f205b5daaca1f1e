"""Two-stage vote collection: guess from the selection draws, hits from fresh estimation draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from mmcert.certify.checks import check_draws
from mmcert.certify.votes import Votes
from mmcert.perturbations.base import Perturbation
from mmcert.sampling.draws import ESTIMATION, SELECTION, draw_seed, input_digest

Segment = Callable[[list[torch.Tensor]], 'torch.Tensor | Sequence[torch.Tensor]']
"""A base model: a list of B perturbed inputs in, B integer label maps of one shape out."""


class SegmentorOutputError(ValueError):
    """The base model returned something that is not a label map."""


@torch.no_grad()
def collect_votes(
    segment: Segment,
    image: torch.Tensor,
    perturbation: Perturbation,
    *,
    n0: int,
    n: int,
    num_classes: int,
    seed: int = 0,
    batch_size: int = 8,
    digest: bytes | None = None,
    on_draws: Callable[[int], None] | None = None,
) -> Votes:
    """Samples the votes that certify a base model on one input.

    The n0 selection draws choose each component's guess class (the most frequent, ties to the
    lowest). The n estimation draws, all different from them and from each other, count agreements
    with it, one integer per component. Draw j depends on (seed, input, j) alone, so neither the
    batch size nor what else is sampled changes the votes of a base model that treats the inputs of
    a batch apart.

    Args:
        segment (Callable): The base model; takes a list of B perturbed inputs, each of the shape of
            ``image``, and returns B integer label maps of one shape, as a tensor (B, ...) or list.
        image (torch.Tensor): The input, floating point, in the units of the perturbation; images
            in [0, 1].
        perturbation (Perturbation): Law of the draws.
        n0 (int): Number of selection draws, at least 1.
        n (int): Number of estimation draws, at least 1.
        num_classes (int): Number of classes C; labels lie in [0, C).
        seed (int): Seed of the run.
        batch_size (int): Inputs per call of ``segment``, at least 1.
        digest (bytes | None): Address of the input among all inputs; by default the digest of its
            content.
        on_draws (Callable | None): Called with the number of draws done after each batch.

    Returns:
        Votes: Guess and hits of each component as NumPy arrays, in the shape of the label maps.

    Raises:
        ValueError: If an argument is out of range.
        SegmentorOutputError: If the base model's labels are not integers in [0, C) of one shape.
    """
    n0, n = check_draws(n0, 'n0'), check_draws(n)
    check_draws(batch_size, 'batch_size')
    check_draws(num_classes, 'num_classes')
    if not image.is_floating_point():
        raise ValueError(f'the input must be floating point, got {image.dtype}: convert it first')
    if digest is None:
        digest = input_digest(image)

    def batches(stage: int, count: int) -> Iterator[torch.Tensor]:
        """Label maps of the draws of one stage, shape (B, K), batch by batch."""
        for start in range(0, count, batch_size):
            indices = range(start, min(start + batch_size, count))
            labels = segment([draw(stage, index) for index in indices])
            yield _checked_labels(labels, len(indices), num_classes)
            if on_draws is not None:
                on_draws(len(indices))

    def draw(stage: int, index: int) -> torch.Tensor:
        generator = torch.Generator(image.device)
        generator.manual_seed(draw_seed(seed, digest, stage, index))
        return perturbation.sample(image, generator)

    counts = torch.zeros((), dtype=torch.int32)
    for labels in batches(SELECTION, n0):
        if counts.ndim == 0:
            shape = labels.shape[1:]
            counts = labels.new_zeros((num_classes, shape.numel()), dtype=torch.int32)
        _check_shape(labels, shape)
        flat = labels.reshape(len(labels), -1).long()
        counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
    guess = _most_frequent(counts).reshape(shape)

    hits = torch.zeros(shape, dtype=torch.int32, device=guess.device)
    for labels in batches(ESTIMATION, n):
        _check_shape(labels, shape)
        hits += (labels == guess).sum(dim=0, dtype=torch.int32)
    return Votes(guess=guess.cpu().numpy(), hits=hits.cpu().numpy(), n=n, n0=n0)


def _most_frequent(counts: torch.Tensor) -> torch.Tensor:
    """Class with the most votes, ties to the lowest: counts (C, K) in, classes (K,) out."""
    num_classes = len(counts)
    rank = torch.arange(num_classes - 1, -1, -1, dtype=torch.int64, device=counts.device)
    score = counts * num_classes + rank[:, None]
    return num_classes - 1 - score.amax(dim=0) % num_classes


def _checked_labels(
    labels: torch.Tensor | Sequence[torch.Tensor], batch: int, num_classes: int
) -> torch.Tensor:
    """The label maps as one integer tensor (B, ...), once they are known to be such."""
    if not isinstance(labels, torch.Tensor):
        labels = torch.stack([torch.as_tensor(label) for label in labels])
    if labels.dtype == torch.bool:
        labels = labels.long()
    if labels.is_floating_point() or labels.is_complex():
        raise SegmentorOutputError(f'label maps must be integers, got {labels.dtype}')
    if labels.shape[:1] != (batch,):
        raise SegmentorOutputError(
            f'{batch} inputs must give {batch} label maps, got shape {tuple(labels.shape)}'
        )
    if labels.numel():
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise SegmentorOutputError(
                f'labels out of range: the base model returned {low if low < 0 else high}, but '
                f'there are {num_classes} classes, 0 to {num_classes - 1}'
            )
    return labels


def _check_shape(labels: torch.Tensor, shape: torch.Size) -> None:
    if labels.shape[1:] != shape:
        raise SegmentorOutputError(
            f'the label maps changed shape from {tuple(shape)} to {tuple(labels.shape[1:])}'
        )
