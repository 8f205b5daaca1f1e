"""Two-stage vote collection: guess from the selection draws, hits from fresh estimation draws."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.checks import check_draws, check_integers
from mmcert.certify.votes import Votes
from mmcert.perturbations.base import Perturbation
from mmcert.perturbations.partition import Partition
from mmcert.sampling.checkpoint import Checkpoint, Checkpointer
from mmcert.sampling.counters import ClassCounts, Counter, Counts, Hits
from mmcert.sampling.draws import ESTIMATION, SELECTION
from mmcert.sampling.outputs import map_shape
from mmcert.sampling.passes import Passes, Segment
from mmcert.sampling.pooled_hits import PooledHits
from mmcert.sampling.process_group import ProcessGroup
from mmcert.sampling.settings import SamplingSettings

ROUND = 64
"""Draws of each process between two sums over all of them, where several share an input."""


@torch.no_grad()
def collect_votes(
    segment: Segment,
    inputs: torch.Tensor,
    perturbation: Perturbation,
    settings: SamplingSettings,
    *,
    digest: bytes | None = None,
    on_draws: Callable[[int], None] | None = None,
    checkpointer: Checkpointer | None = None,
    processes: ProcessGroup | None = None,
    partition: Partition | None = None,
) -> Votes:
    """Samples the votes that certify a base model on one input.

    The n0 selection draws choose each component's guess class (the most frequent, ties to the
    lowest). The n estimation draws, all different from them and from each other, count agreements
    with it, one integer per component. Draw j depends on (seed, input, j) alone. So neither the
    batch size nor other inputs change the votes, as long as the base model treats the inputs of a
    batch apart. The class that comes second in the draws that chose the guess is kept as well.

    With n0 = 0 the guess is the most frequent class of the n draws themselves, which takes a count
    per class and component. Such votes are for ``selection='same_draws'`` only.

    Where the attack set of an input is cut into cells, the selection draws are of the clean input,
    and the estimation draws are around the centres of its ``partition``. The votes then hold scores
    of pooled tests in place of hits (see ``Votes.table``), and no selection hits: they are for
    ``selection='holdout'``. The same goes for a perturbation whose hits ask for more than the label
    of the smoothed model.

    Args:
        segment (Callable): The base model. Takes a list of B perturbed inputs, each of the shape of
            ``inputs``, and returns B integer label maps of one shape, as a tensor (B, ...) or list,
            or ``LogitMaps``, from which the labels are read faster than by the model itself.
        inputs (torch.Tensor): The input, floating point, in the units of the perturbation; images
            in [0, 1].
        perturbation (Perturbation): What the draws are of.
        settings (SamplingSettings): How many draws, and what is counted of them.
        digest (bytes | None): Address of the input among all inputs; by default the digest of its
            content.
        on_draws (Callable | None): Called with the number of draws done after each batch.
        checkpointer (Checkpointer | None): Stores the counts every so often, and gives back what an
            earlier call with the same arguments left.
        processes (ProcessGroup | None): Processes that share the draws. Each calls this with the
            same arguments and gets the votes of all.
        partition (Partition | None): That of the input, where it is known already.

    Returns:
        Votes: Guess and hits of each component as NumPy arrays, in the shape of the label maps.

    Raises:
        ValueError: If the input is not one of the perturbation, or n0 is 0 or groups are given with
            a perturbation whose attack sets are cut into cells.
        SegmentorOutputError: If the base model's labels are not integers in [0, C) of one shape.

    Examples:
        >>> from mmcert.perturbations import GaussianNoise
        >>> def bright(images):  # Labels a pixel by whether it is brighter than 1/2.
        ...     return (torch.stack(images)[:, 0] > 0.5).long()
        >>> image = torch.tensor([[[0.1, 0.9]]])
        >>> settings = SamplingSettings(n0=10, n=100, num_classes=2)
        >>> votes = collect_votes(bright, image, GaussianNoise(sigma=0.1), settings)
        >>> votes.guess.tolist(), votes.hits.tolist()
        ([[0, 1]], [[100, 100]])
    """
    passes = Passes(segment, inputs, perturbation, settings, digest, partition)
    sampler = Sampler(passes, on_draws, checkpointer, processes)
    n = check_draws(settings.n)  # type: ignore[arg-type]
    if settings.n0 == 0:
        return sampler.most_frequent(n)
    return sampler.estimate(sampler.guess(), 0, n)


@torch.no_grad()
def collect_looks(
    segment: Segment,
    inputs: torch.Tensor,
    perturbation: Perturbation,
    settings: SamplingSettings,
    *,
    first: int,
    next_look: Callable[[Votes], int | None],
    start: Votes | None = None,
    digest: bytes | None = None,
    on_draws: Callable[[int], None] | None = None,
    checkpointer: Checkpointer | None = None,
    processes: ProcessGroup | None = None,
) -> Votes:
    """Samples group-sequential votes: look after look, until told to stop.

    The draws, the other arguments and the errors are those of ``collect_votes``; the perturbation
    has no cells, n0 is at least 1, and the ``n`` of the settings does not matter. The sizes of the
    looks must be fixed beforehand, as doubling them is: a size that is chosen by the votes voids
    the certificate.

    ``first`` is the number of estimation draws of the first look. ``next_look`` gets the votes of
    each look, those of ``start`` included, in the first process. It may store them, and returns the
    number of estimation draws of the next look, or None to stop. ``start`` holds votes of the same
    draws up to some look, to continue.

    Returns:
        Votes: With one look or more.

    Raises:
        ValueError: If an argument is out of range, or the perturbation cuts attack sets into cells.
    """
    require_no_cells(perturbation, "looks (n='auto')")
    passes = Passes(segment, inputs, perturbation, settings, digest)
    sampler = Sampler(passes, on_draws, checkpointer, processes)
    votes = start
    if votes is None:
        guess = sampler.guess()
        votes = sampler.estimate(guess, 0, check_draws(first, 'first look')).as_first_look()
    while (size := sampler.processes.broadcast(partial(next_look, votes))) is not None:
        count = check_draws(size - votes.n, 'draws of a look')
        votes = votes.with_look(sampler.estimate(votes, votes.n, count))
    return votes


@torch.no_grad()
def collect_enumerated(
    segment: Segment,
    inputs: torch.Tensor,
    perturbation: Perturbation,
    settings: SamplingSettings,
    *,
    clean: ArrayLike,
    digest: bytes | None = None,
    on_draws: Callable[[int], None] | None = None,
    checkpointer: Checkpointer | None = None,
    processes: ProcessGroup | None = None,
) -> Votes:
    """Counts at how many parameters of a finite set the base model keeps its clean class.

    Nothing is drawn: number j is the j-th parameter of ``perturbation.enumerated``, each counts
    once, and the seed does not matter. ``clean`` are the base model's labels of the clean input, in
    the shape of its label maps. The other arguments are those of ``collect_votes``; the ``n`` and
    ``n0`` of the settings do not matter.

    Returns:
        Votes: Votes of an enumeration, for ``certify_enumerated``.

    Raises:
        ValueError: If the perturbation draws at random, groups are given, or as for
            ``collect_votes``.

    Examples:
        >>> from mmcert.perturbations import Enumeration
        >>> def bright(images):  # Labels a pixel by whether it is brighter than 1/2.
        ...     return (torch.stack(images)[:, 0] > 0.5).long()
        >>> image = torch.tensor([[[0.1, 0.3, 0.9]]])
        >>> brighter = Enumeration('brightness', values=[-0.3, 0.1, 0.3])
        >>> settings = SamplingSettings(n0=0, n=None, num_classes=2)
        >>> votes = collect_enumerated(bright, image, brighter, settings, clean=bright([image])[0])
        >>> votes.guess.tolist(), votes.hits.tolist()
        ([[0, 0, 1]], [[3, 2, 3]])
    """
    if perturbation.enumerated is None:
        raise ValueError(f'{perturbation!r} draws at random: its votes are for collect_votes')
    if settings.groups:
        raise ValueError('groups are not counted for an enumeration')
    passes = Passes(segment, inputs, perturbation, settings, digest)
    sampler = Sampler(passes, on_draws, checkpointer, processes)
    guess = check_integers(clean, 'clean')
    counted = sampler.estimate(
        Votes(guess, np.zeros_like(guess), 1, 0), 0, len(perturbation.enumerated)
    )
    return replace(counted, enumerated=True)


class Sampler:
    """Counts the draws of one input, with checkpoints and other processes around the counting."""

    def __init__(
        self,
        passes: Passes,
        on_draws: Callable[[int], None] | None,
        checkpointer: Checkpointer | None,
        processes: ProcessGroup | None,
    ) -> None:
        self.passes, self.settings = passes, passes.settings
        self.on_draws = on_draws or (lambda draws: None)
        self.checkpointer = checkpointer
        self.processes = processes or ProcessGroup()
        if self.settings.groups:
            require_no_cells(passes.perturbation, 'a hierarchy')

    def most_frequent(self, n: int) -> Votes:
        """Votes whose guess is the most frequent class of the counted draws themselves."""
        require_no_cells(self.passes.perturbation, 'n0 = 0')
        counts = self._class_counts(ESTIMATION, n)
        guess, hits = counts.most_frequent()
        runner_up, runner_up_hits = counts.runner_up(guess)
        return Votes(guess, hits, n, 0, runner_up=runner_up, runner_up_hits=runner_up_hits)

    def guess(self) -> Votes:
        """The guess of each level with its selection hits, and no estimation draws yet (n = n0)."""
        n0, groups = check_draws(self.settings.n0, 'n0'), self.settings.groups
        found = self.checkpointer.found if self.checkpointer is not None else None
        if found is not None and (found.stage, found.start) == (ESTIMATION, 0):
            levels = [
                (found.arrays[f'guess{level}'], found.arrays[f'selection_hits{level}'])
                for level in range(1 + len(groups))
            ]
            # A run that an earlier version began has none.
            second = found.arrays.get('runner_up'), found.arrays.get('runner_up_hits')
        else:
            counts = self._class_counts(SELECTION, n0)
            levels = [counts.most_frequent(members) for members in (None, *groups)]
            second = counts.runner_up(levels[0][0])
        classes, *by_group = (Votes(guess, hits, n0, n0, hits) for guess, hits in levels)
        return _with_groups(classes, by_group, *second)

    def estimate(self, chosen: Votes, start: int, count: int) -> Votes:
        """Hits of ``count`` estimation draws, from number ``start``, under given guesses."""
        partition, device = self.passes.partition, self.passes.device
        if partition is not None:
            first = self.processes.broadcast(lambda: partition.digest)
            with self.processes.fail_together(device):
                if first != partition.digest:
                    raise RuntimeError(
                        'the processes cut the attack set into different cells: they must run on '
                        'machines of one kind, with one number of threads'
                    )
            together = ROUND * self.processes.size if self.processes.size > 1 else 0
            pooled = PooledHits(chosen, partition, self.settings, device, together)
            self._count(pooled)
            (hits,) = pooled.hits()
            return replace(chosen, hits=hits, n=count, selection_hits=None, table=partition.table)
        counter = Hits(chosen, start, count, self.settings, device)
        self._count(counter)
        counts = self.passes.perturbation.selection_counts
        classes, *by_group = (
            Votes(level.guess, hits, count, level.n0, level.selection_hits if counts else None)
            for level, hits in zip(counter.chosen, counter.hits(), strict=True)
        )
        return _with_groups(classes, by_group, chosen.runner_up, chosen.runner_up_hits)

    def _class_counts(self, stage: int, draws: int) -> ClassCounts:
        if self.passes.perturbation.enumerated is not None:
            raise ValueError(
                f'{self.passes.perturbation!r} draws nothing that could choose a class: count it '
                'with collect_enumerated'
            )
        shared = self.processes.size > 1
        counter = ClassCounts(stage, draws, self.settings, self.passes.device, shared=shared)
        self._count(counter)
        return counter

    def _count(self, counter: Counter) -> None:
        """Counts all draws of a stage, from where an earlier run stopped."""
        checkpointer = self.checkpointer
        found = checkpointer.take(counter.stage, counter.start) if checkpointer else None
        if found is not None and counter.resume(found):
            self.on_draws(counter.done)
        advance = self._advance if self.processes.size == 1 else self._advance_together
        try:
            while counter.done < counter.draws:
                advance(counter)
        except BaseException:
            if checkpointer and counter.worth_storing and self.processes.rank == 0:
                with contextlib.suppress(RuntimeError, OSError):
                    checkpointer.save(partial(self._checkpoint, counter))
            raise
        self.passes.require_sound()

    def _advance(self, counter: Counter) -> None:
        """Counts the draws that are left."""
        indices = range(counter.start + counter.done, counter.start + counter.draws)
        for output in self.passes.outputs(counter.stage, indices):
            counter.add_batch(output)
            self._store(counter)
            self.on_draws(len(output))

    def _advance_together(self, counter: Counter) -> None:
        """Counts the next round of draws, of which each process takes a share."""
        processes = self.processes
        size = min(ROUND * processes.size, counter.draws - counter.done)
        share = processes.share(counter.start + counter.done, size)
        counts: Counts = {}
        shape: torch.Size | None = None
        first = share.start
        # A process that fails tells the others, which would wait for its counts in vain.
        with processes.fail_together(self.passes.device):
            for output in self.passes.outputs(counter.stage, share):
                shape = map_shape(output)
                counts = counts or counter.zeros(shape)
                counter.add(counts, output, first)
                first += len(output)
                self.on_draws(len(output) * processes.size)
            self.passes.require_sound()
        # The first process has draws in every round, others may have none.
        shape = processes.broadcast(lambda: shape)
        counts = counts or counter.zeros(shape)  # type: ignore[arg-type]
        processes.add_up(*counts.values())
        counter.add_counts(counts, size)
        processes.broadcast(partial(self._store, counter))

    def _store(self, counter: Counter) -> None:
        if self.checkpointer is not None and counter.done < counter.draws:
            self.checkpointer.save(partial(self._checkpoint, counter), if_due=True)

    def _checkpoint(self, counter: Counter) -> Checkpoint:
        self.passes.require_sound()
        return counter.checkpoint()


def _with_groups(
    classes: Votes,
    by_group: Sequence[Votes],
    runner_up: NDArray[np.integer] | None,
    runner_up_hits: NDArray[np.integer] | None,
) -> Votes:
    """The votes of classes with those of groups, and with the runner-up."""
    return replace(
        classes,
        group_votes=tuple(by_group),
        runner_up=runner_up,
        runner_up_hits=runner_up_hits,
    )


def require_no_cells(perturbation: Perturbation, what: str) -> None:
    """Refuses what is not counted where attack sets are cut into cells, with a ValueError."""
    if perturbation.has_partition:
        raise ValueError(
            f'{perturbation!r} cuts attack sets into cells, which does not go with {what}: give n '
            'and n0 >= 1 as numbers, and no hierarchy'
        )
