"""Two-stage vote collection: guess from the selection draws, hits from fresh estimation draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

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
    nodes: Sequence[ArrayLike] = (),
) -> Votes:
    """Samples the votes that certify a base model on one input.

    The n0 selection draws choose each component's guess class (the most frequent, ties to the
    lowest). The n estimation draws, all different from them and from each other, count agreements
    with it, one integer per component. Draw j depends on (seed, input, j) alone, so neither the
    batch size nor what else is sampled changes the votes of a base model that treats the inputs of
    a batch apart.

    With n0 = 0 the guess is the most frequent class of the n draws themselves, which takes a count
    per class and component; such votes are for ``selection='same_draws'`` only.

    Args:
        segment (Callable): The base model; takes a list of B perturbed inputs, each of the shape of
            ``image``, and returns B integer label maps of one shape, as a tensor (B, ...) or list.
        image (torch.Tensor): The input, floating point, in the units of the perturbation; images
            in [0, 1].
        perturbation (Perturbation): Law of the draws.
        n0 (int): Number of selection draws, at least 0.
        n (int): Number of estimation draws, at least 1.
        num_classes (int): Number of classes C; labels lie in [0, C).
        seed (int): Seed of the run.
        batch_size (int): Inputs per call of ``segment``, at least 1.
        digest (bytes | None): Address of the input among all inputs; by default the digest of its
            content.
        on_draws (Callable | None): Called with the number of draws done after each batch.
        nodes (Sequence[np.ndarray]): For each level of a taxonomy, finest first, the node of each
            class, shape (C,): the votes get the counts of that level.

    Returns:
        Votes: Guess and hits of each component as NumPy arrays, in the shape of the label maps.

    Raises:
        ValueError: If an argument is out of range.
        SegmentorOutputError: If the base model's labels are not integers in [0, C) of one shape.
    """
    sampler = _Sampler(
        segment, image, perturbation, num_classes, seed, batch_size, digest, on_draws, nodes
    )
    if n0 == 0 and not isinstance(n0, bool):
        return sampler.most_frequent(check_draws(n))
    return sampler.estimate(sampler.select(check_draws(n0, 'n0')), 0, check_draws(n))


@torch.no_grad()
def collect_looks(
    segment: Segment,
    image: torch.Tensor,
    perturbation: Perturbation,
    *,
    n0: int,
    first: int,
    next_look: Callable[[Votes], int | None],
    num_classes: int,
    seed: int = 0,
    batch_size: int = 8,
    digest: bytes | None = None,
    on_draws: Callable[[int], None] | None = None,
    nodes: Sequence[ArrayLike] = (),
    start: Votes | None = None,
) -> Votes:
    """Samples group-sequential votes: look after look, until told to stop.

    The draws are those of ``collect_votes``; after each look ``next_look`` decides whether to go
    on. The sizes of the looks must be fixed beforehand, as doubling them is: a size that is chosen
    by the votes voids the certificate. Votes of an earlier call are continued where they stopped.

    Args:
        segment (Callable): As for ``collect_votes``.
        image (torch.Tensor): As for ``collect_votes``.
        perturbation (Perturbation): Law of the draws.
        n0 (int): Number of selection draws, at least 1.
        first (int): Estimation draws of the first look.
        next_look (Callable): Called with the votes of each look, those of ``start`` included;
            returns the number of estimation draws of the next look, or None to stop. The place to
            store the votes so far.
        num_classes (int): As for ``collect_votes``.
        seed (int): As for ``collect_votes``.
        batch_size (int): As for ``collect_votes``.
        digest (bytes | None): As for ``collect_votes``.
        on_draws (Callable | None): As for ``collect_votes``.
        nodes (Sequence[np.ndarray]): As for ``collect_votes``.
        start (Votes | None): Votes of the same draws up to some look.

    Returns:
        Votes: With one look or more.

    Raises:
        ValueError: If an argument is out of range.
        SegmentorOutputError: If the base model's labels are not integers in [0, C) of one shape.
    """
    sampler = _Sampler(
        segment, image, perturbation, num_classes, seed, batch_size, digest, on_draws, nodes
    )
    votes = start
    if votes is None:
        chosen = sampler.select(check_draws(n0, 'n0'))
        votes = sampler.estimate(chosen, 0, check_draws(first, 'first look')).as_first_look()
    while (size := next_look(votes)) is not None:
        further = sampler.estimate(votes, votes.n, check_draws(size - votes.n, 'draws of a look'))
        votes = votes.with_look(further)
    return votes


class _Sampler:
    """The draws of one input, and what is counted of them."""

    def __init__(
        self,
        segment: Segment,
        image: torch.Tensor,
        perturbation: Perturbation,
        num_classes: int,
        seed: int,
        batch_size: int,
        digest: bytes | None,
        on_draws: Callable[[int], None] | None,
        nodes: Sequence[ArrayLike],
    ) -> None:
        self.segment, self.image, self.perturbation = segment, image, perturbation
        self.num_classes = check_draws(num_classes, 'num_classes')
        self.seed, self.batch_size = seed, check_draws(batch_size, 'batch_size')
        if not image.is_floating_point():
            raise ValueError(
                f'the input must be floating point, got {image.dtype}: convert it first'
            )
        self.digest = input_digest(image) if digest is None else digest
        self.on_draws = on_draws
        self.nodes = [torch.as_tensor(np.asarray(level), dtype=torch.int64) for level in nodes]
        for level in self.nodes:
            if level.shape != (num_classes,):
                raise ValueError(
                    f'nodes must give one node for each of {num_classes} classes, got shape '
                    f'{tuple(level.shape)}'
                )

    def most_frequent(self, n: int) -> Votes:
        """Votes whose guess is the most frequent class of the counted draws themselves."""
        if self.nodes:
            raise ValueError('a taxonomy needs selection draws: n0 must be at least 1')
        shape, counts = self._counts(ESTIMATION, n)
        guess, hits = _most_frequent(counts)
        return Votes(_array(guess, shape), _array(hits, shape), n, 0)

    def select(self, n0: int) -> Votes:
        """The guess of each level with its selection hits, and no estimation draws yet (n = n0)."""
        shape, counts = self._counts(SELECTION, n0)
        levels = []
        for nodes in (None, *self.nodes):
            grouped = counts
            if nodes is not None:
                nodes = nodes.to(counts.device)
                grouped = counts.new_zeros((int(nodes.max()) + 1, counts.shape[1]))
                grouped.index_add_(0, nodes, counts)
            guess, hits = (_array(part, shape) for part in _most_frequent(grouped))
            levels.append(Votes(guess, hits, n0, n0, hits))
        return replace(levels[0], coarse=tuple(levels[1:]))

    def estimate(self, chosen: Votes, start: int, count: int) -> Votes:
        """Hits of ``count`` estimation draws, from number ``start``, under given guesses."""
        levels = [chosen, *chosen.coarse]
        shape = torch.Size(chosen.guess.shape)
        guesses: list[torch.Tensor] = []
        hits: list[torch.Tensor] = []
        for labels in self._batches(ESTIMATION, start, count):
            _check_shape(labels, shape)
            if not guesses:
                device = labels.device
                guesses = [torch.from_numpy(level.guess).to(device) for level in levels]
                hits = [torch.zeros(shape, dtype=torch.int32, device=device) for _ in levels]
            mapped = [labels, *(nodes.to(labels.device)[labels.long()] for nodes in self.nodes)]
            for level, total in enumerate(hits):
                total += (mapped[level] == guesses[level]).sum(dim=0, dtype=torch.int32)
        parts = [
            Votes(level.guess, _array(total, shape), count, level.n0, level.selection_hits)
            for level, total in zip(levels, hits, strict=True)
        ]
        return replace(parts[0], coarse=tuple(parts[1:]))

    def _counts(self, stage: int, count: int) -> tuple[torch.Size, torch.Tensor]:
        """Votes of each class, shape (C, K), and the shape of the label maps."""
        counts = torch.zeros((), dtype=torch.int32)
        for labels in self._batches(stage, 0, count):
            if counts.ndim == 0:
                shape = labels.shape[1:]
                counts = labels.new_zeros((self.num_classes, shape.numel()), dtype=torch.int32)
            _check_shape(labels, shape)
            flat = labels.reshape(len(labels), -1).long()
            counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        return shape, counts

    def _batches(self, stage: int, start: int, count: int) -> Iterator[torch.Tensor]:
        """Label maps of the draws of one stage, shape (B, ...), batch by batch."""
        for first in range(start, start + count, self.batch_size):
            indices = range(first, min(first + self.batch_size, start + count))
            labels = self.segment([self._draw(stage, index) for index in indices])
            yield _checked_labels(labels, len(indices), self.num_classes)
            if self.on_draws is not None:
                self.on_draws(len(indices))

    def _draw(self, stage: int, index: int) -> torch.Tensor:
        generator = torch.Generator(self.image.device)
        generator.manual_seed(draw_seed(self.seed, self.digest, stage, index))
        return self.perturbation.sample(self.image, generator)


def _array(values: torch.Tensor, shape: torch.Size) -> NDArray[np.integer]:
    return values.reshape(shape).cpu().numpy()


def _most_frequent(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class with the most votes, ties to the lowest, and its votes: counts (C, K), both (K,)."""
    num_classes = len(counts)
    rank = torch.arange(num_classes - 1, -1, -1, dtype=torch.int64, device=counts.device)
    score = (counts * num_classes + rank[:, None]).amax(dim=0)
    return num_classes - 1 - score % num_classes, score // num_classes


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
