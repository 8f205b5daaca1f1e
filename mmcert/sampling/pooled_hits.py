"""Weighted sums of hits of several cells, as the draws around their centres come in."""

import heapq

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certify.votes import Votes
from mmcert.perturbations.partition import Partition
from mmcert.sampling.checkpoint import Checkpoint
from mmcert.sampling.counters import Counts, Hits, check_shape, to_array
from mmcert.sampling.label_decoding import add_hits
from mmcert.sampling.logit_maps import LogitMaps
from mmcert.sampling.outputs import label_maps
from mmcert.sampling.settings import SamplingSettings


class PooledHits(Hits):
    """The least score that each component has in any cell of a ``Partition``.

    A draw counts in several cells, each of which adds up hits with weights of its own. A sum takes
    a row of memory from the first of its draws on, until all of them are counted and its score is
    known. Sums of processes add up.

    Args:
        chosen (Votes): The guess.
        partition (Partition): Cells, and which draws count in them.
        settings (SamplingSettings): How many classes there are.
        device (torch.device): Where the sums are.
        together (int): Draws between two sums over several processes; 0 if there is one.
    """

    def __init__(
        self,
        chosen: Votes,
        partition: Partition,
        settings: SamplingSettings,
        device: torch.device,
        together: int = 0,
    ) -> None:
        self.partition = partition
        self.rows, self.num_rows = _rows(partition, together)
        # Processes add up int32, never int16.
        largest = max(len(scores) for scores in partition.scores)
        self.dtype = torch.int32 if together or largest > 2**15 else torch.int16
        self.readings = [reading.to(device) for reading in partition.readings]
        self._by_end = np.argsort(partition.complete_at, kind='stable')
        self._complete = 0
        super().__init__(chosen, 0, partition.draws, settings, device)
        # Counts of another partition do not go on here.
        self.guess_arrays['partition'] = np.frombuffer(partition.digest, dtype=np.uint8)
        self.counts['score0'] = torch.full(
            self.guesses[0].shape, len(partition.table) - 1, dtype=torch.int32, device=device
        )

    def zeros(self, shape: torch.Size) -> Counts:
        """Sums of no draws; the scores are no counts, and stay out of what processes add up."""
        size = (self.num_rows, *shape)
        return {'sums': torch.zeros(size, dtype=self.dtype, device=self.device)}

    def add(self, counts: Counts, output: torch.Tensor | LogitMaps, first: int) -> None:
        """Adds the hits of a batch to the sums of all cells in which its draws count."""
        check_shape(output, self.guesses[0].shape)
        sums, guess = counts['sums'], self.guesses[0]
        for centre, start, end in self.partition.split(first, first + len(output)):
            part = _part(output, start - first, end - first)
            if self.readings:
                part = label_maps(part, self.settings.num_classes)
            for reading, cells in self.partition.cells_of[centre].items():
                hits = torch.zeros(guess.shape, dtype=torch.int32, device=self.device)
                if self.readings:
                    assert isinstance(part, torch.Tensor)
                    hits += self.readings[reading].agreed(part, guess).sum(dim=0)
                else:
                    add_hits(hits, part, guess)
                counted = hits.to(sums.dtype)
                for cell, weight in cells:
                    sums[self.rows[cell]].add_(counted, alpha=weight)

    def add_batch(self, output: torch.Tensor | LogitMaps) -> None:
        """Counts a batch, centre by centre: rows are free for others when their sum is known."""
        first = self.done
        for _, start, end in self.partition.split(first, first + len(output)):
            super().add_batch(_part(output, start - first, end - first))

    def advance(self, draws: int) -> None:
        """Scores all cells whose draws are counted by now."""
        super().advance(draws)
        partition, sums, least = self.partition, self.counts['sums'], self.counts['score0']
        while self._complete < len(self._by_end):
            cell = int(self._by_end[self._complete])
            if partition.complete_at[cell] > self.done:
                break
            scores = torch.from_numpy(partition.scores[cell]).to(self.device)
            row = sums[self.rows[cell]]
            torch.minimum(least, scores[row.long()], out=least)
            row.zero_()
            self._complete += 1

    def checkpoint(self) -> Checkpoint:
        """Scores so far and the sums that are not complete, whichever rows they have."""
        begun = np.flatnonzero(
            (_begins(self.partition) < self.done) & (self.partition.complete_at > self.done)
        )
        rows = [self.rows[cell] for cell in begun]
        arrays = {
            'cells': begun,
            'sums': to_array(self.counts['sums'][rows]),
            'score0': to_array(self.counts['score0']),
        }
        return Checkpoint(self.stage, self.start, self.done, {**self.guess_arrays, **arrays})

    def resume(self, found: Checkpoint) -> bool:
        """Takes over an earlier run of the same partition."""
        if not super().resume(found):
            return False
        stored = self.counts
        rows = [self.rows[cell] for cell in stored['cells'].tolist()]
        self.counts = {**self.zeros(self.guesses[0].shape), 'score0': stored['score0']}
        self.counts['sums'][rows] = stored['sums'].to(self.dtype)
        ends = self.partition.complete_at[self._by_end]
        self._complete = int(np.searchsorted(ends, self.done, side='right'))
        return True

    def hits(self) -> list[NDArray[np.integer]]:
        """The least scores."""
        return [to_array(self.counts['score0'])]


def _part(output: torch.Tensor | LogitMaps, start: int, end: int) -> torch.Tensor | LogitMaps:
    """Some maps of a batch."""
    if isinstance(output, LogitMaps):
        return output.with_scores(output.scores[start:end])
    return output[start:end]


def _rows(partition: Partition, together: int) -> tuple[list[int], int]:
    """A row for the sum of each cell, and how many that takes.

    Rows are used again once a sum is complete, at the next multiple of ``together`` draws.
    """
    begins = _begins(partition)
    rows, busy, count = [0] * len(begins), list[tuple[int, int]](), 0
    for cell in np.argsort(begins, kind='stable').tolist():
        if busy and busy[0][0] + together <= begins[cell]:
            row = heapq.heappop(busy)[1]
        else:
            row, count = count, count + 1
        rows[cell] = row
        heapq.heappush(busy, (int(partition.complete_at[cell]), row))
    return rows, count


def _begins(partition: Partition) -> NDArray[np.int64]:
    """For each cell, the number of draws before the first that counts in it."""
    return np.array([partition.starts[int(test.centres[0])] for test in partition.tests])
