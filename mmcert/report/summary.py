"""The results of a data set: pooled, put in words and tables, and written to files."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from mmcert.certify.dataset import DatasetStatement, dataset_statement
from mmcert.certify.rounding import AtMost
from mmcert.files import write_json, write_json_lines
from mmcert.metrics.confusion import ConfusionCounts, total
from mmcert.metrics.results import InputResult, exact_rates
from mmcert.report.tables import (
    COLUMNS,
    EXACT_COLUMNS,
    class_table,
    level_table,
    reference_table,
    region_table,
    result_table,
)


@dataclass(frozen=True)
class Summary:
    """What the certificates of a data set say together.

    Attributes:
        results (Sequence[InputResult]): The inputs, at least one.
        num_classes (int): Number of classes C.
        classes (Sequence[str]): Their names; empty if they have none.
    """

    results: Sequence[InputResult]
    num_classes: int
    classes: Sequence[str] = ()

    @cached_property
    def counts(self) -> ConfusionCounts:
        """The counts of all inputs."""
        return total((result.counts for result in self.results), self.num_classes)

    @cached_property
    def certificate(self) -> dict[str, Any]:
        """The entries that all certificates share."""
        first, *others = (result.certificate.items() for result in self.results)
        return {key: value for key, value in first if all((key, value) in rest for rest in others)}

    @property
    def kind(self) -> str:
        """What the results are together, see ``kind_of_all``."""
        return kind_of_all(result.certificate['kind'] for result in self.results)

    @property
    def estimated(self) -> bool:
        """Whether the threshold of some input is only an estimate, so that nothing is proven."""
        return self.kind == 'estimate'

    @property
    def exact(self) -> bool:
        """Whether nothing was drawn or tested: the base model is certified by enumeration."""
        return self.kind == 'exact'

    @property
    def draws(self) -> list[int]:
        """Draws that each input took."""
        return [result.draws for result in self.results]

    @cached_property
    def rates(self) -> dict[str, float]:
        """The rates over all inputs, their ``radius`` if they share it, and the mean ``draws``.

        Of an enumeration there is no smoothed model, and ``draws`` are the parameters.
        """
        shared = self.certificate
        rates = exact_rates(self.counts) if self.exact else self.counts.rates()
        radius = {'radius': shared['radius']} if 'radius' in shared else {}
        return {**rates, **radius, 'draws': sum(self.draws) / len(self.results)}

    @property
    def all_inputs(self) -> DatasetStatement:
        """With which probability the certificates hold together."""
        return dataset_statement(
            len(self.results),
            self.certificate['alpha'],
            digests=[result.certificate['input'] for result in self.results],
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        counts, rates, draws = self.counts, self.rates, self.draws
        return {
            'images': counts.images,
            'certificate': self.certificate,
            'rates': rates,
            'draws': {'mean': rates['draws'], 'least': min(draws), 'most': max(draws)},
            'per_class': counts.per_class(),
            'regions': counts.by_region(),
            'classes': list(self.classes),
            **({} if self.estimated or self.exact else {'all_images': self.all_inputs.to_dict()}),
        }

    def describe(self) -> str:
        """The claim, the tables, and what there is to know about draws and thresholds."""
        counts, rates = self.counts, self.rates
        lines = (
            claim(self.certificate, counts.images, self.kind, counts.allowance > 0),
            self._denoiser(),
            class_table(counts, self.classes or [str(index) for index in range(self.num_classes)]),
            region_table(counts),
            level_table(counts),
            result_table([{**self.certificate, **rates}], EXACT_COLUMNS if self.exact else COLUMNS),
            reference_table(rates),
            self._tested_tau(),
            self._looks(),
            self._thresholds(),
            self._together(),
        )
        return '\n'.join(filter(None, lines))

    def _denoiser(self) -> str:
        """What stands before the base model, where something does."""
        if not (found := self.certificate.get('denoiser')):
            return ''
        return (
            f'the smoothed function is the base model behind a denoiser, {found["type"]} '
            f'{found["digest"][:8]} ({found["file"]}); "base" is the model without it'
        )

    def _collect(self, key: str) -> list[Any]:
        """An entry of the certificates that have it."""
        return [r.certificate[key] for r in self.results if key in r.certificate]

    def _tested_tau(self) -> str:
        """At which threshold same_draws was tested, where that is not tau."""
        if not (taus := self._collect('tested_tau')):
            return ''
        values = ' to '.join(dict.fromkeys(f'{tau:.4f}' for tau in (min(taus), max(taus))))
        return (
            f'same_draws was tested at {values}, above tau, where it needs fewer hits: the claims '
            'at tau follow'
        )

    def _looks(self) -> str:
        """What group-sequential sampling took, and what more of it would bring."""
        gains = [entry['share_of_components'] for entry in self._collect('next_look_would_certify')]
        if not gains:
            return ''
        shared, draws = self.certificate, self.draws
        stopped = ', '.join(
            f'{reason} ({count})' for reason, count in Counter(self._collect('stopped')).items()
        )
        return (
            f'draws per {shared["input_type"]}: {sum(draws) / len(draws):.0f} on average, '
            f'{min(draws)} to {max(draws)}; stopped because {stopped}; doubling the draws again '
            f'would certify about {100 * sum(gains) / len(gains):.1f}% of the '
            f'{shared["component_type"]}s more (an estimate)'
        )

    def _thresholds(self) -> str:
        """Which thresholds an attack set takes, where each input has its own."""
        found = self._collect('attack_on_this_input')
        if found and 'cells' in found[0]:
            cells = [math.prod(entry['cells']) for entry in found]
            return (
                f'cells of the attack set, tested together: {median(cells):g} for the median '
                f'{self.certificate["input_type"]}, {min(cells)} to {max(cells)}'
            )
        taus = [entry['tau'] for entry in found]
        if not taus:
            return ''
        note = '; it was only sampled: these results are an ESTIMATE, no certificate'
        return (
            f'threshold tau that the attack set takes: {median(taus):.6g} for the median '
            f'{self.certificate["input_type"]}, {min(taus):.6g} to {max(taus):.6g}'
            f'{note * self.estimated}'
        )

    def _together(self) -> str:
        """What holds for all inputs at once; nothing for estimates and what holds anyhow."""
        if self.estimated or self.exact:
            return ''
        shared, together = self.certificate, self.all_inputs
        if together.alpha_for_all == shared['alpha']:
            return f'{together.describe()}.'  # One input.
        return (
            f'{together.describe()}. With alpha = {together.alpha_for_all:.3g} per '
            f'{shared["input_type"]}, all of them together would be right with probability '
            f'{AtMost(1 - shared["alpha"]):g}.'
        )


def kind_of_all(kinds: Iterable[str]) -> str:
    """What inputs are together: 'estimate' if one is, 'exact' if all are, else 'certificate'."""
    found = set(kinds)
    if 'estimate' in found:
        return 'estimate'
    return 'exact' if found == {'exact'} else 'certificate'


def claim(shared: Mapping[str, Any], images: int, kind: str, counted: bool) -> str:
    """What the certificates of a data set claim, in a sentence.

    Args:
        shared (Mapping): The entries that all certificates share.
        images (int): Number of inputs.
        kind (str): What they are together, see ``kind_of_all``.
        counted (bool): Whether fewer than k of the certificates of an input may be wrong.
    """
    word = shared['input_type']
    inputs = f'{images} {word}{"s" * (images != 1)}'
    if kind == 'estimate':
        # The draws are counted as for a certificate, but at a threshold that may be too low.
        start = f'estimated results of {inputs}, without proof: '
    elif kind == 'exact':
        start = f'certified results of {inputs}, verified by enumeration, without draws or alpha: '
    else:
        name, but = 'certificates', ''
        if counted:
            name, but = 'count certificates', ', for all but fewer than k certificates'
        start = (
            f'certified results of {inputs}, {name}: with probability '
            f'{AtMost(1 - shared["alpha"]):g} per {word}{but}, '
        )
    # The descriptions differ where each input has a radius of its own.
    description = shared.get('description') or (
        f'the attack that the certificate of each {word} states changes no class that the '
        'smoothed model gives a certified component of it'
    )
    return f'{start}{description} ({shared["certified_space"]})'


def write_summary(summary: Summary, folder: str | os.PathLike[str]) -> None:
    """Writes ``summary.json`` and ``images.jsonl``, a line for each input, into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / 'summary.json', summary.to_dict())
    write_json_lines(folder / 'images.jsonl', (result.to_dict() for result in summary.results))
