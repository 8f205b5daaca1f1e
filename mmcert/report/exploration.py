"""What a page needs to answer for other settings: votes, counted by class and hits.

The page's script ``statistics.js`` certifies again from these, as ``mmcert.certify`` does. Nothing
that it finds is a certificate: the settings of one are fixed before anybody sees a vote.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.certify.binomial import histogram
from mmcert.report.results_folder import ResultsFolder, StoredResult
from mmcert.report.tiles import Legend, pack

TAUS = (*(round(0.01 * step, 2) for step in range(50, 100)), 0.995, 0.999)
ALPHAS = (*sorted(digit / 10**place for place in range(2, 8) for digit in (1, 2, 5)), 0.1)
COUNTS = tuple(digit * 10**place for place in range(5) for digit in (1, 2, 5))
"""What ``k`` may be: fewer certificates of each image than that may be wrong."""

PROCEDURES = ('bonferroni', 'holm', 'ordered_holm', 'kfwer')
"""What can be tried: all procedures of the package."""

RATES = {'certAcc': 'accuracy', 'mIoU': 'mIoU', 'abstain': 'abstention'}
"""What is compared, and what it is called where it is no certificate."""

RadiusAt = Callable[[float], float]
"""From a threshold to the radius of a certificate."""


def why_not(results: ResultsFolder, first: StoredResult) -> str:
    """Why no other settings can be tried, in a sentence; empty if they can."""
    shared = results.summary['certificate']
    if first.record is None:
        return 'the votes were not kept with these results'
    votes = first.record.votes
    if votes.enumerated:
        return 'these results were verified by enumeration, without tau, alpha or procedure'
    if votes.table is not None:
        return 'cells of the attack set were tested together, at one threshold alone'
    if any('attack_on_this_input' in line for line in results.lines):
        return 'the attack set takes another threshold for each input'
    if votes.looks:
        return 'the votes were tested in several looks'
    if not {'tau', 'alpha', 'procedure', 'asked'} <= shared.keys():
        return 'the inputs were tested under different settings'
    return ''


def counted_hits(result: StoredResult, legend: Legend) -> tuple[NDArray[np.integer], int]:
    """Counted hits of each component, under the selection of the certificate, and draws.

    They are 0 where the class is no part of the chain of a hierarchy, as in tests.
    """
    assert result.record is not None
    votes = result.record.votes
    ((hits, n),) = votes.stages(result.certificate['test']['selection'])
    if legend.hierarchy is not None:
        hits = np.where(legend.hierarchy.nested(votes)[0], hits, 0)
    return hits, n


def maps_to_try(result: StoredResult, legend: Legend) -> dict[str, NDArray[Any]]:
    """Maps of an image that other settings need beside its hits, at its pixels.

    ``counted`` are the hits that are tested, where they are not the hits themselves; ``order1`` and
    ``order2`` are ranks of the components, the largest one first, as far as there are some; for
    each level of a hierarchy, ``group`` and a number is the value of the group in the legend, and
    ``tested`` and a number its counted hits.
    """
    record, test = result.record, result.certificate['test']
    assert record is not None
    votes, selection = record.votes, test['selection']
    hits, _ = counted_hits(result, legend)
    found: dict[str, NDArray[Any]] = {}
    if not np.array_equal(hits, votes.hits):
        found['counted'] = hits
    found |= {f'order{place}': ranks for place, ranks in enumerate(_ranks(result), 1)}
    if legend.hierarchy is not None:
        nested = legend.hierarchy.nested(votes)
        for level, (start, of) in enumerate(zip(legend.starts, votes.group_votes, strict=True), 1):
            ((group_hits, _),) = of.stages(selection)
            found[f'group{level}'] = start + of.guess.astype(np.int64)
            found[f'tested{level}'] = np.where(nested[level], group_hits, 0)
    return {name: record.spread(values) for name, values in found.items()}


def _ranks(result: StoredResult) -> list[NDArray[np.integer]]:
    """What ``component_order`` sorts by, first and later; nothing for the order in memory."""
    record, test = result.record, result.certificate['test']
    assert record is not None
    hits = record.votes.selection_hits
    if test['asked']['order'] == 'margin' or test['selection'] == 'same_draws':
        hits = None
    return [ranks for ranks in (hits, record.margin) if ranks is not None]


@dataclass
class Exploration:
    """All images of a run, counted for the page.

    Attributes:
        summary (Mapping): The content of ``summary.json``.
        legend (Legend): Names of classes.
        radius_at (RadiusAt | None): The radius of a threshold, if it is known.
        ordered (bool): Whether pixels are components, so that the page can put them in order.
    """

    summary: Mapping[str, Any]
    legend: Legend
    radius_at: RadiusAt | None = None
    ordered: bool = True
    _images: list[dict[str, Any]] = field(default_factory=list)
    _arrays: dict[str, list[NDArray[np.integer]]] = field(default_factory=dict)

    def add(self, result: StoredResult, tile: int | None) -> None:
        """Counts an image.

        Args:
            result (StoredResult): The image, with its votes.
            tile (int | None): Its number in the page, if it is shown.
        """
        record, classes = result.record, self.legend.num_classes
        assert record is not None
        hits, n = counted_hits(result, self.legend)
        self.ordered &= record.grid is None
        shown, guess = record.spread(hits).ravel(), record.spread(record.votes.guess).ravel()
        label = np.full(shown.shape, classes)
        if record.label is not None:
            label = self.legend.label(record.label).ravel().astype(np.int64)
        valid = label < classes
        width = n + 1
        codes = guess[valid].astype(np.int64) * width + shown[valid]
        found = np.bincount(codes, minlength=classes * width)
        right = np.bincount(codes[guess[valid] == label[valid]], minlength=classes * width)
        (some,) = np.nonzero(found)
        arrays = {
            'components': histogram(hits, n),
            'pixels': histogram(shown, n),
            'labelled': np.bincount(label[valid], minlength=classes),
            'classes': some // width,
            'hits': some % width,
            'found': found[some],
            'right': right[some],
        }
        for name, values in arrays.items():
            self._arrays.setdefault(name, []).append(values)
        selection = result.certificate['test']['selection']
        self._images.append(
            {
                'n': n,
                'selection': selection,
                'entries': len(some),
                'tile': tile,
                # Pixels that show a component.
                'width': record.pixels_per_component,
                'rates': _compared(result.rates),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """What the page's script reads, as JSON values."""
        shared = self.summary['certificate']
        taus = sorted({*TAUS, shared['tau']})
        fixed = {key: shared[key] for key in ('tau', 'alpha', 'procedure')}
        # As asked: a share, say, where the images differ in size.
        fixed['k'] = shared['asked']['k']
        counts = COUNTS if fixed['k'] is None else {*COUNTS, fixed['k']}
        return {
            'fixed': {**fixed, 'rates': _compared(self.summary['rates'])},
            'taus': taus,
            'radii': None if self.radius_at is None else [self.radius_at(tau) for tau in taus],
            'alphas': sorted({*ALPHAS, shared['alpha']}),
            'ks': sorted(counts),
            'procedures': [name for name in PROCEDURES if self.ordered or name != 'ordered_holm'],
            'images': self._images,
            'counts': {name: pack(np.concatenate(all_)) for name, all_ in self._arrays.items()},
        }


def _compared(rates: Mapping[str, Any]) -> dict[str, Any]:
    return {key: rates.get(key) for key in RATES}
