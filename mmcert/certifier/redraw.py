"""Takes some of the draws of stored votes again, and holds them against the votes.

Votes are counts, not single draws. But every draw has an address, so a draw can be taken again by
itself, and a count bounds what a part of its draws may show: of n draws with h hits, any m have at
least m - (n - h) hits and at most h. Where all draws were hits, each draw taken again must be one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certifier.plan import CertificationPlan
from mmcert.certifier.segmentor import PlainSegmentor, Segmentor
from mmcert.certify.votes import Votes
from mmcert.perturbations import Partition
from mmcert.sampling.draws import ESTIMATION, SELECTION
from mmcert.sampling.outputs import label_maps
from mmcert.sampling.passes import Passes, Segment
from mmcert.votes import VotesRecord


@dataclass(frozen=True, eq=False)
class Redrawn:
    """What draws that were taken again say of the votes of an input.

    Attributes:
        draws (Mapping): How many draws of each kind were taken again, of how many.
        decided (np.ndarray): Components at which each estimation draw must show the recorded class,
            or must not: all of them were hits, or none. Bool, the shape of the votes.
        contradicted (np.ndarray): Components whose recorded counts or margin are impossible, or all
            of them where the cells of the attack set are others; same shape.
    """

    draws: Mapping[str, tuple[int, int]]
    decided: NDArray[np.bool_]
    contradicted: NDArray[np.bool_]

    def describe(self) -> str:
        """In a sentence."""
        taken = ' and '.join(f'{m} of {n} {kind} draws' for kind, (m, n) in self.draws.items())
        shown = f'{self.decided.mean():.1%} of the components' if self.decided.size else 'nothing'
        wrong = int(self.contradicted.sum())
        verdict = (
            f'what is recorded of {wrong} components is impossible'
            if wrong
            else ('as the votes say')
        )
        return f'{taken} taken again, which decide {shown} draw by draw: {verdict}'


@torch.no_grad()
def redraw(
    segment: Segment | Segmentor,
    inputs: torch.Tensor,
    record: VotesRecord,
    plan: CertificationPlan,
    *,
    draws: int = 20,
    seed: int = 0,
    digest: bytes | None = None,
) -> Redrawn:
    """Takes random draws of an input again, and labels the clean input.

    With as many draws as there are, all counts are compared. The margin of the clean input may
    decide which components are tested first, so it must be the recorded one, up to a step. Scores
    of cells are no counts: there only the selection draws, which choose the class, are taken again,
    and the cells themselves must be the recorded ones.

    Args:
        segment (Callable | Segmentor): The base model, as in ``Certifier.certify``.
        inputs (torch.Tensor): The input, on the type of device that the votes were sampled on.
        record (VotesRecord): The votes.
        plan (CertificationPlan): What they were sampled by.
        draws (int): How many estimation draws to take again, and how many selection draws; of each
            kind all, if there are fewer.
        seed (int): Decides which. It must not be known to whoever sampled the votes.
        digest (bytes | None): Address of the input; by default that of the record.

    Examples:
        >>> import tempfile
        >>> from mmcert.certifier import Certifier, CertificationPlan
        >>> from mmcert.certify import CertifySettings
        >>> from mmcert.perturbations import GaussianNoise
        >>> from mmcert.sampling import SamplingSettings
        >>> def segment(images):  # Class 1 where a pixel is brighter than 1/2.
        ...     return (torch.stack(images)[:, 0] > 0.5).long()
        >>> sampling = SamplingSettings(n0=10, n=100, num_classes=2)
        >>> plan = CertificationPlan(GaussianNoise(0.1), CertifySettings(0.75, 0.001), sampling)
        >>> image = torch.linspace(0, 1, 8).reshape(1, 1, 8)
        >>> record = Certifier(plan).certify(segment, image).record
        >>> found = redraw(segment, image, record, plan)
        >>> found.draws, int(found.contradicted.sum()), found.decided.tolist()[0][0]
        ({'selection': (10, 10), 'estimation': (20, 100)}, 0, True)
    """
    votes = record.votes
    rng = np.random.default_rng(seed)
    passes = Passes(
        segment, inputs, plan.perturbation, plan.sampling,
        bytes.fromhex(record.meta['digest']) if digest is None else digest,
    )  # fmt: skip
    levels = [votes, *votes.group_votes]
    members = [None, *(() if plan.hierarchy is None else plan.hierarchy.groups)]
    decided = np.zeros(votes.guess.shape, dtype=bool)
    contradicted, taken = _of_clean_input(segment, inputs, record, plan), {}
    if passes.partition is not None and not _same_cells(passes.partition, record):
        contradicted[...] = True
    stages: list[tuple[str, int, int]] = [('selection', SELECTION, votes.n0)]
    if votes.table is None:
        stages.append(('estimation', ESTIMATION, votes.n))
    for kind, stage, total in stages:
        count = min(draws, total)
        if not count:
            continue
        taken[kind] = count, total
        chosen = np.sort(rng.choice(total, count, replace=False))
        maps = _labels(passes, stage, chosen.tolist(), plan.sampling.num_classes)
        for level, groups in zip(levels, members, strict=True):
            labels = maps if groups is None else _grouped(maps, groups)
            agreed = labels == level.guess
            for hits, n in _recorded(level, stage):
                part = agreed[chosen < n]
                found, m = part.sum(axis=0), len(part)
                least = np.maximum(m - (n - hits.astype(np.int64)), 0)
                contradicted |= (found < least) | (found > np.minimum(hits, m))
                if stage == ESTIMATION:
                    decided |= (hits == n) | (hits == 0)
            if stage == SELECTION and count == total:
                contradicted |= _most_frequent(labels) != level.guess
    return Redrawn(taken, decided, contradicted)


def _of_clean_input(
    segment: Segment | Segmentor, inputs: torch.Tensor, record: VotesRecord, plan: CertificationPlan
) -> NDArray[np.bool_]:
    """Where the clean input has another label or margin than recorded."""
    model: Segmentor = (
        segment  # type: ignore[assignment]
        if hasattr(segment, 'with_margin')
        else PlainSegmentor(segment, plan.sampling.num_classes)
    )
    labels, margin = model.with_margin(inputs.clone())
    wrong = np.zeros(record.votes.guess.shape, dtype=bool)
    grids = [
        grid and [axis.tolist() for axis in (grid.rows, grid.columns)]
        for grid in (model.grid, record.grid)
    ]
    if grids[0] != grids[1]:
        # Pixels would show other components than those that they are in.
        wrong[...] = True
    if record.base is not None:
        wrong |= labels.cpu().numpy() != record.base
    if record.margin is not None:
        found = wrong | True if margin is None else margin.cpu().numpy()
        wrong |= abs(found - record.margin.astype(int)) > 1
    return wrong


def _same_cells(partition: Partition, record: VotesRecord) -> bool:
    """Whether recorded cells are those of the input; probabilities up to rounding."""
    ours, theirs = partition.to_dict(), record.meta.get('cells', {})
    mine, recorded = (
        np.concatenate([*cells.get('null_probabilities', []), []]) for cells in (ours, theirs)
    )
    table = record.votes.table
    return (
        all(ours[name] == theirs.get(name) for name in ('draws', 'centres', 'weights'))
        and mine.shape == recorded.shape
        and np.allclose(mine, recorded, rtol=1e-9, atol=0)
        and table is not None
        and np.allclose(partition.table, table, rtol=1e-6, atol=0)
    )


def _labels(
    passes: Passes, stage: int, indices: Sequence[int], num_classes: int
) -> NDArray[np.int64]:
    """The label map of each draw, one pass each, at the positions of the clean input."""
    found = [
        label_maps(output, num_classes).cpu().numpy().astype(np.int64)
        for index in indices
        for output in passes.outputs(stage, range(index, index + 1))
    ]
    return np.concatenate(found)


def _recorded(level: Votes, stage: int) -> list[tuple[NDArray[Any], int]]:
    """The recorded hits and the draws that they are of."""
    if stage == SELECTION:
        return [] if level.selection_hits is None else [(level.selection_hits, level.n0)]
    return list(zip([*level.history, level.hits], level.looks or (level.n,), strict=True))


def _grouped(labels: NDArray[np.int64], groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """The groups of labels; what is no class stays none."""
    inside = (labels >= 0) & (labels < len(groups))
    return np.where(inside, groups[np.where(inside, labels, 0)], -1)


def _most_frequent(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent label of each component, the lowest of several."""
    classes = range(int(labels.max(initial=0)) + 1)
    return np.stack([(labels == index).sum(axis=0) for index in classes]).argmax(axis=0)
