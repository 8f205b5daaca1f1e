"""Two-stage vote collection: guess from the selection draws, hits from fresh estimation draws."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.checks import check_draws
from mmcert.certify.votes import Votes
from mmcert.perturbations.base import Perturbation
from mmcert.sampling.batching import BatchSize
from mmcert.sampling.checkpoint import Checkpoint, Checkpointer
from mmcert.sampling.draws import ESTIMATION, SELECTION, draw_seed, input_digest
from mmcert.sampling.label_decoding import add_hits, decode_labels, has_kernel
from mmcert.sampling.logit_maps import LogitMaps
from mmcert.sampling.outputs import (
    NOT_FINITE,
    Output,
    SegmentorOutputError,
    check_range,
    checked_labels,
    not_finite,
)
from mmcert.sampling.process_group import ProcessGroup

Segment = Callable[[list[torch.Tensor]], Output]
"""A base model: a list of B perturbed inputs in, B label maps out."""

ROUND = 64
"""Draws of each process between two sums over all of them, where several share an input."""

FEW_CLASSES = 40
"""Up to how many classes counting them one after the other is faster than scattering."""


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
    batch_size: int | str | BatchSize = 8,
    digest: bytes | None = None,
    on_draws: Callable[[int], None] | None = None,
    nodes: Sequence[ArrayLike] = (),
    checkpointer: Checkpointer | None = None,
    processes: ProcessGroup | None = None,
) -> Votes:
    """Samples the votes that certify a base model on one input.

    The n0 selection draws choose each component's guess class (the most frequent, ties to the
    lowest). The n estimation draws, all different from them and from each other, count agreements
    with it, one integer per component. Draw j depends on (seed, input, j) alone, so neither the
    batch size nor what else is sampled changes the votes of a base model that treats the inputs of
    a batch apart.

    With n0 = 0 the guess is the most frequent class of the n draws themselves, which takes a count
    per class and component; such votes are for ``selection='same_draws'`` only.

    Of a perturbation of several parts, the home part chooses the guess. Draws of any part would do,
    since only a class that is most frequent in all of them can be certified; those of the home part
    also predict the class of the input as it is. Every part then has n estimation draws of its own,
    numbers part * n to part * n + n - 1, and a component's hits are its fewest in any part. The
    selection draws are of one part alone and must not count for another, so the votes keep no
    selection hits: they are for ``selection='holdout'``. The same goes for a perturbation whose
    hits ask for more than the label of the smoothed model (``strict_hits``).

    Args:
        segment (Callable): The base model; takes a list of B perturbed inputs, each of the shape of
            ``image``, and returns B integer label maps of one shape, as a tensor (B, ...) or list,
            or ``LogitMaps``, from which the labels are read faster than by the model itself.
        image (torch.Tensor): The input, floating point, in the units of the perturbation; images
            in [0, 1].
        perturbation (Perturbation): Law of the draws.
        n0 (int): Number of selection draws, at least 0.
        n (int): Number of estimation draws, at least 1.
        num_classes (int): Number of classes C; labels lie in [0, C).
        seed (int): Seed of the run.
        batch_size (int | str | BatchSize): Inputs per call of ``segment``, at least 1, or 'auto';
            halved where memory runs out, without losing a vote. A ``BatchSize`` carries what was
            found over to the next input.
        digest (bytes | None): Address of the input among all inputs; by default the digest of its
            content.
        on_draws (Callable | None): Called with the number of draws done after each batch.
        nodes (Sequence[np.ndarray]): For each level of a hierarchy, finest first, the node of each
            class, shape (C,): the votes get the counts of that level.
        checkpointer (Checkpointer | None): Stores the counts every so often, and gives back what an
            earlier call with the same arguments left.
        processes (ProcessGroup | None): Processes that share the draws: each calls this with the
            same arguments and gets the votes of all.

    Returns:
        Votes: Guess and hits of each component as NumPy arrays, in the shape of the label maps.

    Raises:
        ValueError: If an argument is out of range, or n0 is 0 or ``nodes`` are given with a
            perturbation of several parts.
        SegmentorOutputError: If the base model's labels are not integers in [0, C) of one shape.
    """
    sampler = _Sampler(
        segment, image, perturbation, num_classes, seed, batch_size, digest, on_draws, nodes,
        checkpointer, processes,
    )  # fmt: skip
    if n0 == 0 and not isinstance(n0, bool):
        return sampler.most_frequent(check_draws(n))
    return sampler.estimate(sampler.guesses(check_draws(n0, 'n0')), 0, check_draws(n))


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
    batch_size: int | str | BatchSize = 8,
    digest: bytes | None = None,
    on_draws: Callable[[int], None] | None = None,
    nodes: Sequence[ArrayLike] = (),
    checkpointer: Checkpointer | None = None,
    processes: ProcessGroup | None = None,
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
        next_look (Callable): Called with the votes of each look, those of ``start`` included, in
            the first process; returns the number of estimation draws of the next look, or
            None to stop. The place to store the votes so far.
        num_classes (int): As for ``collect_votes``.
        seed (int): As for ``collect_votes``.
        batch_size (int | str | BatchSize): As for ``collect_votes``.
        digest (bytes | None): As for ``collect_votes``.
        on_draws (Callable | None): As for ``collect_votes``.
        nodes (Sequence[np.ndarray]): As for ``collect_votes``.
        checkpointer (Checkpointer | None): As for ``collect_votes``.
        processes (ProcessGroup | None): As for ``collect_votes``.
        start (Votes | None): Votes of the same draws up to some look.

    Returns:
        Votes: With one look or more.

    Raises:
        ValueError: If an argument is out of range, or the perturbation has several parts.
        SegmentorOutputError: If the base model's labels are not integers in [0, C) of one shape.
    """
    sampler = _Sampler(
        segment, image, perturbation, num_classes, seed, batch_size, digest, on_draws, nodes,
        checkpointer, processes,
    )  # fmt: skip
    sampler.require_one_part("looks (n='auto')")
    votes = start
    if votes is None:
        chosen = sampler.guesses(check_draws(n0, 'n0'))
        votes = sampler.estimate(chosen, 0, check_draws(first, 'first look')).as_first_look()
    while (size := sampler.processes.broadcast(partial(next_look, votes))) is not None:
        count = check_draws(size - votes.n, 'draws of a look')
        votes = votes.with_look(sampler.estimate(votes, votes.n, count))
    return votes


Counts = list[torch.Tensor]


class _Count:
    """The counts of a stage, and how far they are.

    Args:
        stage (int): ``SELECTION`` or ``ESTIMATION``.
        start (int): First draw.
        names (Sequence[str]): Names of the counts in a partial run.
        empty (Callable): Makes counts of no draws for label maps of a shape; none of them while
            the shape is unknown, None, and needed.
        add (Callable): Adds the output of a batch to such counts.
        against (Mapping): What the counts are counted against, stored beside them.
    """

    def __init__(
        self,
        stage: int,
        start: int,
        names: Sequence[str],
        empty: Callable[[torch.Size | None], Counts],
        add: Callable[[Counts, torch.Tensor | LogitMaps], None],
        against: Mapping[str, NDArray],
    ) -> None:
        self.stage, self.start, self.names, self.against = stage, start, names, against
        self.empty, self.add = empty, add
        self.totals, self.done = empty(None), 0
        # While this is False, counts and number of draws may disagree: a run that is broken off
        # then is not kept, lest a draw counts twice.
        self.consistent = True

    @property
    def worth_keeping(self) -> bool:
        """Whether an earlier part of the work would be lost otherwise, and nothing is torn."""
        return self.consistent and bool(self.done or (self.start == 0 and self.against))

    def fits(self, kept: Checkpoint, draws: int) -> bool:
        """Whether an earlier run counted at most these draws, against the same guess."""
        return kept.done <= draws and all(
            np.array_equal(kept.arrays.get(name, ()), array) for name, array in self.against.items()
        )

    def resume(self, kept: Checkpoint, device: torch.device) -> None:
        """Takes over the counts of an earlier run."""
        self.totals = [torch.from_numpy(kept.arrays[name]).to(device) for name in self.names]
        self.done = kept.done

    def take(self, output: torch.Tensor | LogitMaps) -> None:
        """Counts a batch."""
        self.consistent = False
        self.add(self.totals, output)
        self._passed(len(output))
        self.consistent = True

    def take_sums(self, sums: Counts, draws: int) -> None:
        """Takes over the counts that all processes made of some draws."""
        self.consistent = False
        if not self.totals:
            self.totals = sums
        else:
            for total, part in zip(self.totals, sums, strict=True):
                total += part
        self._passed(draws)
        self.consistent = True

    def law(self, perturbation: Perturbation) -> Perturbation:
        """What the next draws are of."""
        return perturbation

    def stop(self, draws: int) -> int:
        """How far the next draws are of the same law, of ``draws`` in all."""
        return draws

    def _passed(self, draws: int) -> None:
        self.done += draws

    def partial(self) -> Checkpoint:
        """The counts so far, as they are kept."""
        arrays = {name: _array(total) for name, total in zip(self.names, self.totals, strict=True)}
        return Checkpoint(self.stage, self.start, self.done, {**self.against, **arrays})


class _FewestHits(_Count):
    """Hits of one part of a perturbation after the other, and the fewest in those that are done.

    Args:
        size (int): Draws of each part.
        *arguments: As for ``_Count``; the counts are the hits and the fewest.
    """

    def __init__(self, size: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.size = size

    def law(self, perturbation: Perturbation) -> Perturbation:
        """The part under way."""
        return perturbation.part(self.done // self.size)

    def stop(self, draws: int) -> int:
        """The end of the part under way."""
        return (self.done // self.size + 1) * self.size

    def _passed(self, draws: int) -> None:
        super()._passed(draws)
        if self.done % self.size == 0:
            hits, fewest = self.totals
            fewest.copy_(hits if self.done == self.size else torch.minimum(hits, fewest))
            hits.zero_()


class _Sampler:
    """The draws of one input, and what is counted of them."""

    def __init__(
        self,
        segment: Segment,
        image: torch.Tensor,
        perturbation: Perturbation,
        num_classes: int,
        seed: int,
        batch_size: int | str | BatchSize,
        digest: bytes | None,
        on_draws: Callable[[int], None] | None,
        nodes: Sequence[ArrayLike],
        checkpointer: Checkpointer | None,
        processes: ProcessGroup | None,
    ) -> None:
        self.segment = segment
        self.num_classes = check_draws(num_classes, 'num_classes')
        self.batch = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        if not isinstance(image, torch.Tensor):
            raise ValueError(
                f'the input must be a torch tensor, got {type(image).__name__}: '
                'torch.from_numpy makes one of an array'
            )
        if not image.is_floating_point():
            raise ValueError(
                f'the input must be floating point, got {image.dtype}: convert it first'
            )
        self.device = image.device
        perturbation.check(image)
        self.on_draws, self.checkpointer, self.processes = (
            on_draws,
            checkpointer,
            processes or ProcessGroup(),
        )
        self.nodes = [torch.as_tensor(np.asarray(level), dtype=torch.int64) for level in nodes]
        for level in self.nodes:
            if level.shape != (num_classes,):
                raise ValueError(
                    f'nodes must give one node for each of {num_classes} classes, got shape '
                    f'{tuple(level.shape)}'
                )
        # The order in memory decides which value gets which random number.
        self.image, self.perturbation, self.seed = image.contiguous(), perturbation, seed
        self.digest = input_digest(image) if digest is None else digest
        self._bad: torch.Tensor | None = None
        if self.nodes:
            self.require_one_part('a hierarchy')

    def require_one_part(self, what: str) -> None:
        """Refuses what is not counted for perturbations of several parts."""
        if self.perturbation.parts > 1:
            raise ValueError(
                f'{self.perturbation!r} has {self.perturbation.parts} parts, which does not go '
                f'with {what}: give n and n0 >= 1 as numbers, and no hierarchy'
            )

    def most_frequent(self, n: int) -> Votes:
        """Votes whose guess is the most frequent class of the counted draws themselves."""
        if self.nodes:
            raise ValueError('a hierarchy needs selection draws: n0 must be at least 1')
        self.require_one_part('n0 = 0')
        guess, hits = _most_frequent(self._class_counts(ESTIMATION, n))
        return Votes(_array(guess), _array(hits), n, 0)

    def guesses(self, n0: int) -> Votes:
        """The guess of each level with its selection hits, and no estimation draws yet (n = n0)."""
        kept = self.checkpointer.found if self.checkpointer is not None else None
        if kept is not None and (kept.stage, kept.start) == (ESTIMATION, 0):
            levels = []
            for level in range(1 + len(self.nodes)):
                hits = kept.arrays[f'selection_hits{level}']
                levels.append(Votes(kept.arrays[f'guess{level}'], hits, n0, n0, hits))
        else:
            levels = self._select(n0)
        return replace(levels[0], coarse=tuple(levels[1:]))

    def _select(self, n0: int) -> list[Votes]:
        counts = self._class_counts(SELECTION, n0)
        levels = []
        for nodes in (None, *self.nodes):
            grouped = counts
            if nodes is not None:
                nodes = nodes.to(counts.device)
                grouped = counts.new_zeros((int(nodes.max()) + 1, *counts.shape[1:]))
                grouped.index_add_(0, nodes, counts)
            guess, hits = (_array(part) for part in _most_frequent(grouped))
            levels.append(Votes(guess, hits, n0, n0, hits))
        return levels

    def estimate(self, chosen: Votes, start: int, count: int) -> Votes:
        """Hits of ``count`` estimation draws, from number ``start``, under given guesses."""
        levels = [chosen, *chosen.coarse]
        shape = torch.Size(chosen.guess.shape)
        # Bytes, where they suffice, are compared fastest.
        kind = torch.uint8 if self.num_classes <= 256 else torch.int32
        guesses = [torch.from_numpy(part.guess.copy()).to(self.device, kind) for part in levels]
        nodes = [level.to(self.device) for level in self.nodes]
        names = [f'hits{level}' for level in range(len(levels))]
        parts = self.perturbation.parts
        if parts > 1:
            names.append('fewest0')
        against: dict[str, NDArray] = {}
        for level, part in enumerate(levels):
            against[f'guess{level}'] = part.guess
            if part.selection_hits is not None:
                against[f'selection_hits{level}'] = part.selection_hits

        def empty(_: torch.Size | None) -> Counts:
            return [torch.zeros(shape, dtype=torch.int32, device=self.device) for _ in names]

        def add(hits: Counts, output: torch.Tensor | LogitMaps) -> None:
            _check_shape(output, shape)
            if nodes:
                output = self._labels(output)
            add_hits(hits[0], output, guesses[0])
            for level, node in enumerate(nodes, 1):
                add_hits(hits[level], _nodes_of(output, node), guesses[level])  # type: ignore[arg-type]

        arguments = (ESTIMATION, start, names, empty, add, against)
        counter = _Count(*arguments) if parts == 1 else _FewestHits(count, *arguments)
        hits = self._run(counter, parts * count)[-len(levels) :]
        found = [
            Votes(
                part.guess,
                _array(total),
                count,
                part.n0,
                part.selection_hits if self.perturbation.selection_counts else None,
            )
            for part, total in zip(levels, hits, strict=True)
        ]
        return replace(found[0], coarse=tuple(found[1:]))

    def _class_counts(self, stage: int, count: int) -> torch.Tensor:
        """Votes of each class, shape (C, ...), in the smallest type that holds them."""
        # Processes add up bytes or int32; their libraries have no int16.
        kinds = (torch.uint8, torch.int16) if self.processes.size == 1 else (torch.uint8,)
        dtype = next((kind for kind in kinds if count <= torch.iinfo(kind).max), torch.int32)

        def empty(shape: torch.Size | None) -> Counts:
            if shape is None:
                return []
            return [torch.zeros((self.num_classes, *shape), dtype=dtype, device=self.device)]

        def add(counts: Counts, output: torch.Tensor | LogitMaps) -> None:
            if not counts:
                counts += empty(_shape(output))
            _check_shape(output, counts[0].shape[1:])
            _add_classes(counts[0], self._labels(output))

        return self._run(_Count(stage, 0, ['counts'], empty, add, {}), count)[0]

    def _run(self, count: _Count, draws: int) -> list[torch.Tensor]:
        """Counts the draws of a stage, of this process and all others, from where it was left."""
        checkpointer = self.checkpointer
        kept = checkpointer.take(count.stage, count.start) if checkpointer is not None else None
        if kept is not None and count.fits(kept, draws):
            count.resume(kept, self.device)
            self._report(count.done)

        def so_far() -> Checkpoint:
            self._check_finite()
            return count.partial()

        try:
            while count.done < draws:
                self._advance(count, draws, so_far)
        except BaseException:
            if checkpointer is not None and count.worth_keeping and self.processes.rank == 0:
                with contextlib.suppress(RuntimeError, OSError):
                    checkpointer.now(so_far)
            raise
        self._check_finite()
        return count.totals

    def _advance(self, count: _Count, draws: int, so_far: Callable[[], Checkpoint]) -> None:
        """Counts all draws that are left of a law, or with a processes the next round of them."""
        law, stop = count.law(self.perturbation), count.stop(draws)
        if self.processes.size == 1:
            left = range(count.start + count.done, count.start + stop)
            for output in self._outputs(law, count.stage, left):
                count.take(output)
                self._keep(count, draws, so_far)
            return
        size = min(ROUND * self.processes.size, stop - count.done)
        shape, mine = None, count.empty(None)
        share = self.processes.share(count.start + count.done, size)
        # A process that fails tells the others, which would wait for its counts in vain.
        with self.processes.fail_together(self.device):
            for output in self._outputs(law, count.stage, share):
                shape = _shape(output)
                count.add(mine, output)
            self._check_finite()
        # The first process has draws in every round, others may have none.
        shape = self.processes.broadcast(lambda: shape)
        mine = mine or count.empty(shape)
        self.processes.add_up(*mine)
        count.take_sums(mine, size)
        self.processes.broadcast(lambda: self._keep(count, draws, so_far))

    def _keep(self, count: _Count, draws: int, so_far: Callable[[], Checkpoint]) -> None:
        if self.checkpointer is not None and count.done < draws:
            self.checkpointer.passed(so_far)

    def _outputs(
        self, law: Perturbation, stage: int, indices: range
    ) -> Iterator[torch.Tensor | LogitMaps]:
        """Outputs of the model for some draws, batch by batch."""
        position = 0

        def one_pass(draws: int) -> torch.Tensor | LogitMaps:
            chosen = indices[position : position + draws]
            output = self._checked(self.segment(self._draws(law, stage, chosen)), draws)
            if law.frame == 'content':
                return self._carried_back(law, self._labels(output), stage, chosen)
            # What takes memory belongs to the pass, which may be repeated with fewer draws.
            reads_in_place = isinstance(output, LogitMaps) and has_kernel(output)
            return output if reads_in_place else self._labels(output)

        while position < len(indices):
            output = self.batch.run(one_pass, self.device, len(indices) - position)
            position += len(output)
            yield output
            self._report(len(output) * self.processes.size)

    def _draws(self, law: Perturbation, stage: int, indices: range) -> list[torch.Tensor]:
        """Some draws, each by a generator of its own on the input's device.

        A CUDA device has them queued before the pass that needs them. On the CPU, threads that
        make draws while the model computes cost the model more than they save.
        """
        return list(law.sample_many(self.image, self._generators(stage, indices)))

    def _generators(self, stage: int, indices: range) -> list[torch.Generator]:
        generators = []
        for index in indices:
            generator = torch.Generator(self.device)
            generator.manual_seed(draw_seed(self.seed, self.digest, stage, index))
            generators.append(generator)
        return generators

    def _carried_back(
        self, law: Perturbation, labels: torch.Tensor, stage: int, indices: range
    ) -> torch.Tensor:
        """Label maps in the frame of the clean input, where the content moved with the draws."""
        if labels.shape[-2:] != self.image.shape[-2:]:
            raise SegmentorOutputError(
                f'{law!r} moves the content, so label maps must have the size of the '
                f'image, {tuple(self.image.shape[-2:])}; got {tuple(labels.shape[-2:])}. Leave out '
                "resolution='logits', and any resizing in the test pipeline"
            )
        read = law.carried_back if stage == SELECTION else law.agreed
        return read(labels, self._generators(stage, indices))

    def _report(self, draws: int) -> None:
        if self.on_draws is not None:
            self.on_draws(draws)

    def _checked(self, output: Output, batch: int) -> torch.Tensor | LogitMaps:
        if not isinstance(output, LogitMaps):
            return checked_labels(output, batch, self.num_classes).to(self.device)
        if len(output) != batch:
            raise SegmentorOutputError(
                f'{batch} inputs must give {batch} maps of scores, got {len(output)}'
            )
        output = output.with_scores(output.scores.to(self.device))
        bad = not_finite(output.scores)
        self._bad = bad if self._bad is None else self._bad | bad
        # Asking a CUDA device for an answer would hold up the next pass.
        if self._bad.device.type == 'cpu':
            self._check_finite()
        return output

    def _check_finite(self) -> None:
        if self._bad is not None and bool(self._bad):
            raise SegmentorOutputError(NOT_FINITE)

    def _labels(self, output: torch.Tensor | LogitMaps) -> torch.Tensor:
        """Label maps, shape (B, ...)."""
        if isinstance(output, torch.Tensor):
            return output
        labels = decode_labels(output)
        if max(output.scores.shape[1], 2) > self.num_classes:
            check_range(labels, self.num_classes)
        return labels


def _array(values: torch.Tensor) -> NDArray[np.integer]:
    return values.cpu().numpy().copy()


def _shape(output: torch.Tensor | LogitMaps) -> torch.Size:
    """Shape of one label map."""
    return output.shape if isinstance(output, LogitMaps) else output.shape[1:]


def _check_shape(output: torch.Tensor | LogitMaps, shape: torch.Size) -> None:
    if _shape(output) != shape:
        raise SegmentorOutputError(
            f'the label maps changed shape from {tuple(shape)} to {tuple(_shape(output))}'
        )


def _nodes_of(labels: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Nodes of some labels; -1 for a label that is no class, as of content that left the frame."""
    inside = (labels >= 0) & (labels < len(nodes))
    return torch.where(inside, nodes[labels.long().clamp(0, len(nodes) - 1)], -1)


def _add_classes(counts: torch.Tensor, labels: torch.Tensor) -> None:
    """Counts the classes of B label maps (B, ...) into (C, ...); other labels do not count."""
    if len(counts) <= FEW_CLASSES:
        for index, count in enumerate(counts):
            count += (labels == index).sum(dim=0, dtype=counts.dtype)
    else:
        inside = (labels >= 0) & (labels < len(counts))
        counts.scatter_add_(0, labels.long().clamp(0, len(counts) - 1), inside.to(counts.dtype))


def _most_frequent(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class with the most votes, ties to the lowest, and its votes: counts (C, ...), both (...)."""
    most = counts.amax(dim=0)
    kind = torch.int16 if len(counts) < 2**15 else torch.int32
    guess = torch.zeros(most.shape, dtype=kind, device=counts.device)
    for index in range(len(counts) - 1, -1, -1):
        guess.masked_fill_(counts[index] == most, index)
    return guess, most
