"""What is counted of the draws: votes of each class, or hits of a guess."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mmcert.certify.votes import Votes
from mmcert.sampling.checkpoint import Arrays, Checkpoint
from mmcert.sampling.draws import ESTIMATION
from mmcert.sampling.label_decoding import add_hits
from mmcert.sampling.logit_maps import LogitMaps
from mmcert.sampling.outputs import SegmentorOutputError, label_maps, map_shape
from mmcert.sampling.settings import SamplingSettings

FEW_CLASSES = 40
"""Up to how many classes counting them one after the other is faster than scattering."""

Counts = dict[str, torch.Tensor]


class Counter(ABC):
    """Integer counts over the draws of a stage. They add up over batches, processes and restarts.

    ``draws`` draws from number ``start`` are counted, ``done`` of them so far. ``counts`` are empty
    before the first draw if their shape is not known. ``guess_arrays`` hold the guess that hits are
    counted of, by level.
    """

    def __init__(
        self, stage: int, start: int, draws: int, settings: SamplingSettings, device: torch.device
    ) -> None:
        self.stage, self.start, self.draws, self.done = stage, start, draws, 0
        self.settings, self.device = settings, device
        self.counts: Counts = {}
        self.guess_arrays: Arrays = {}
        # While this is False, counts and number of draws may disagree. A run that breaks off then
        # is not stored, or a draw would count twice.
        self._consistent = True

    @abstractmethod
    def zeros(self, shape: torch.Size) -> Counts:
        """Counts of no draws, for label maps of a shape."""

    @abstractmethod
    def add(self, counts: Counts, output: torch.Tensor | LogitMaps, first: int) -> None:
        """Adds the labels of a batch, whose first draw is number ``first``, to such counts."""

    def advance(self, draws: int) -> None:
        """Notes that so many more draws are in the counts."""
        self.done += draws

    def add_batch(self, output: torch.Tensor | LogitMaps) -> None:
        """Counts a batch of draws."""
        self._consistent = False
        self.counts = self.counts or self.zeros(map_shape(output))
        self.add(self.counts, output, self.start + self.done)
        self.advance(len(output))
        self._consistent = True

    def add_counts(self, counts: Counts, draws: int) -> None:
        """Takes over counts that all processes together made of some draws."""
        self._consistent = False
        if self.counts:
            for name, part in counts.items():
                self.counts[name] += part
        else:
            self.counts = counts
        self.advance(draws)
        self._consistent = True

    @property
    def worth_storing(self) -> bool:
        """Whether a restart would otherwise repeat work, and the counts are whole."""
        return self._consistent and bool(self.done or (self.start == 0 and self.guess_arrays))

    def checkpoint(self) -> Checkpoint:
        """The counts so far, and the guess that they belong to."""
        arrays = {name: to_array(count) for name, count in self.counts.items()}
        return Checkpoint(self.stage, self.start, self.done, {**self.guess_arrays, **arrays})

    def resume(self, found: Checkpoint) -> bool:
        """Takes over an earlier run, if that counted at most these draws of the same guess."""
        guess = self.guess_arrays
        same = all(np.array_equal(found.arrays.get(name, ()), guess[name]) for name in guess)
        if not same or found.done > self.draws:
            return False
        self.counts = {
            name: torch.from_numpy(array).to(self.device)
            for name, array in found.arrays.items()
            if name not in guess
        }
        self.done = found.done
        return True


class ClassCounts(Counter):
    """The votes of each class, shape (C, ...): they choose the guess."""

    def __init__(
        self, stage: int, draws: int, settings: SamplingSettings, device: torch.device, shared: bool
    ) -> None:
        super().__init__(stage, 0, draws, settings, device)
        # The smallest type that holds them. Processes add up bytes or int32, never int16.
        types = (torch.uint8,) if shared else (torch.uint8, torch.int16)
        self.dtype = next((t for t in types if draws <= torch.iinfo(t).max), torch.int32)

    def zeros(self, shape: torch.Size) -> Counts:
        size = (self.settings.num_classes, *shape)
        return {'counts': torch.zeros(size, dtype=self.dtype, device=self.device)}

    def add(self, counts: Counts, output: torch.Tensor | LogitMaps, first: int) -> None:
        """Counts the classes of a batch; a label outside [0, C) does not count."""
        votes = counts['counts']
        check_shape(output, votes.shape[1:])
        labels = label_maps(output, self.settings.num_classes)
        if len(votes) <= FEW_CLASSES:
            for index, count in enumerate(votes):
                count += (labels == index).sum(dim=0, dtype=votes.dtype)
        else:
            inside = (labels >= 0) & (labels < len(votes))
            votes.scatter_add_(0, labels.long().clamp(0, len(votes) - 1), inside.to(votes.dtype))

    def most_frequent(
        self, groups: ArrayLike | None = None
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """The most frequent class of each component, ties to the lowest, and its votes.

        With the group of each class, shape (C,), the most frequent group instead.
        """
        votes = self.counts['counts']
        if groups is not None:
            members = torch.as_tensor(groups, device=votes.device)
            grouped = votes.new_zeros((int(members.max()) + 1, *votes.shape[1:]))
            votes = grouped.index_add_(0, members, votes)
        most = votes.amax(dim=0)
        dtype = torch.int16 if len(votes) < 2**15 else torch.int32
        guess = torch.zeros(most.shape, dtype=dtype, device=votes.device)
        for index in range(len(votes) - 1, -1, -1):
            guess.masked_fill_(votes[index] == most, index)
        return to_array(guess), to_array(most)

    def runner_up(
        self, guess: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """The most frequent class after the guess, ties to the lowest, and its votes.

        Both are 0 where no other class has a vote.
        """
        votes = self.counts['counts']
        chosen = torch.from_numpy(guess).to(votes.device)
        most, label = torch.zeros_like(votes[0]), torch.zeros_like(chosen)
        for index in range(len(votes) - 1, -1, -1):
            count = votes[index].masked_fill(chosen == index, 0)
            label.masked_fill_(count >= most, index)
            torch.maximum(most, count, out=most)
        return to_array(label.masked_fill_(most == 0, 0)), to_array(most)


class Hits(Counter):
    """Estimation draws that agree with the guess, for the classes and each level of groups."""

    def __init__(
        self,
        chosen: Votes,
        start: int,
        draws: int,
        settings: SamplingSettings,
        device: torch.device,
    ) -> None:
        super().__init__(ESTIMATION, start, draws, settings, device)
        self.chosen = [chosen, *chosen.group_votes]
        for level, votes in enumerate(self.chosen):
            self.guess_arrays[f'guess{level}'] = votes.guess
            if votes.selection_hits is not None:
                self.guess_arrays[f'selection_hits{level}'] = votes.selection_hits
        if chosen.runner_up is not None and chosen.runner_up_hits is not None:
            self.guess_arrays |= {
                'runner_up': chosen.runner_up, 'runner_up_hits': chosen.runner_up_hits
            }  # fmt: skip
        # Bytes, where they suffice, are compared fastest.
        dtype = torch.uint8 if settings.num_classes <= 256 else torch.int32
        self.guesses = [torch.from_numpy(v.guess.copy()).to(device, dtype) for v in self.chosen]
        self.groups = [torch.as_tensor(level, device=device) for level in settings.groups]
        self.counts = self.zeros(self.guesses[0].shape)

    def zeros(self, shape: torch.Size) -> Counts:
        return {
            f'hits{level}': torch.zeros(shape, dtype=torch.int32, device=self.device)
            for level in range(len(self.guesses))
        }

    def add(self, counts: Counts, output: torch.Tensor | LogitMaps, first: int) -> None:
        check_shape(output, self.guesses[0].shape)
        if not self.groups:
            add_hits(counts['hits0'], output, self.guesses[0])
            return
        labels = label_maps(output, self.settings.num_classes)
        add_hits(counts['hits0'], labels, self.guesses[0])
        for level, groups in enumerate(self.groups, 1):
            # -1 where the label is no class, as where content left the image.
            inside = (labels >= 0) & (labels < len(groups))
            members = groups[labels.long().clamp(0, len(groups) - 1)]
            add_hits(counts[f'hits{level}'], torch.where(inside, members, -1), self.guesses[level])

    def hits(self) -> list[NDArray[np.integer]]:
        """The hits of each level, classes first."""
        return [to_array(self.counts[f'hits{level}']) for level in range(len(self.guesses))]


def check_shape(output: torch.Tensor | LogitMaps, shape: torch.Size) -> None:
    """Refuses label maps of another shape than before."""
    if map_shape(output) != shape:
        raise SegmentorOutputError(
            f'the label maps changed shape from {tuple(shape)} to {tuple(map_shape(output))}'
        )


def to_array(values: torch.Tensor) -> NDArray[np.integer]:
    """A copy in the main memory."""
    return values.cpu().numpy().copy()
