"""Accuracy under common corruptions: base, smoothed and denoised model, beside certificates.

``mmcert corruptions`` runs this. What was found for an input, a corruption and a severity is
stored, so that a run continues where it was stopped, and may be extended.

The smoothed model's prediction is the majority of ``draws`` new draws at the corrupted input. It
takes no certificate. Certificates are of clean inputs: where ``mmcert.corruptions.coverage`` proves
that one speaks of the corrupted input, its certified components are a lower bound.

Results go to ``corruptions-*`` in the folder of certified results: ``summary.json``,
``corruptions.md`` (the table) and ``corruptions.png`` (the curves).

The format of ``summary.json``; rates lie in [0, 1], and null is a rate that does not exist:

* ``format``: 'mmcert corruptions', and ``version``: 1.
* ``settings``: ``severities``, ``models``, ``draws``, ``seed``, ``normals``, ``inputs`` (how many),
  ``library`` (versions of what corrupts), ``certified`` (the settings of certificates) and
  ``guarantee`` (what they promise).
* ``identity``: of the base model, as in certificates.
* ``input_type``: 'image' or 'cloud'.
* ``models``: of 'base', 'smoothed' and 'denoised', in this order; keys in all that follows.
* ``bounded``: the model that certificates speak of: 'smoothed', or 'base' for an enumeration.
* ``measure``: what a ``distance`` is, in words; null where there is none.
* ``reach``: the largest distance that a certificate with so many draws can cover, of any input;
  null where it is not known.
* ``clean``: ``accuracy`` and ``mIoU`` of each model on the clean inputs.
* ``corruptions``: for each, ``corruption`` (its name), ``category``, ``severities`` and ``mean``.
  An entry of ``severities`` has

  * ``severity``: 1 to 5,
  * ``rates``: ``accuracy`` and ``mIoU`` of each model,
  * ``distance``: ``min``, ``median`` and ``max`` over the inputs, or null,
  * ``certified``: null where no certificate covers any input. Else ``inputs``, how many are
    covered; ``share``, of the components of all inputs that are certified; and lower bounds
    ``accuracy`` and ``mIoU`` over all inputs, those that are not covered included,
  * ``broken``: certified components that lost their class beyond doubt.

  ``mean`` has for each model the ``severities`` that count, and over them ``accuracy``, ``mIoU``
  and ``drop``: see ``mmcert.report.corruptions.mean_rates``.
* ``mean``: for each model the mean of these over corruptions.
* ``broken``: one entry for each broken certificate: ``input``, ``index``, ``corruption``,
  ``severity``, ``tau``, ``components``, ``seed``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.attacks.judge import class_counts, draws_for, hits_of, minority_p_values
from mmcert.certifier import CertificationPlan
from mmcert.certify import ABSTAIN_LABEL, Certificate
from mmcert.certify.planning import max_tau
from mmcert.corruptions import SEVERITIES, Corrupted, Corruption, Coverage, chosen, coverage
from mmcert.corruptions.clouds import CloudCorruption
from mmcert.corruptions.images import versions as library_versions
from mmcert.files import atomic_writer, require_writable, write_json
from mmcert.metrics.confusion import confusion_of
from mmcert.perturbations import Perturbation, TransformationCells
from mmcert.report.corruptions import (
    Confusion,
    bounds_of,
    corruption_page,
    corruption_table,
    is_labelled,
    mean_rates,
    overall,
    plot_corruptions,
    rates_of,
)
from mmcert.runs.input_run import InputRun, Item, require_pixels
from mmcert.runs.source import OpenSegmentor, Source
from mmcert.sampling import LogitMaps
from mmcert.sampling.outputs import checked_labels, label_maps

MODELS = ('base', 'smoothed', 'denoised')
"""What may be compared."""

LEVEL = 1e-3
"""Bound of the probability of any false alarm of a run."""

SURE = 200
"""Further draws, at least, where a certified component has no majority at a corrupted input."""

CLEAN = 'clean'
"""In place of the name of a corruption."""


@dataclass(frozen=True, kw_only=True)
class CorruptionOptions:
    """What is corrupted, and how models are judged.

    Attributes:
        corruptions (tuple[str, ...]): Names, groups and categories, see ``corruptions.chosen``.
        severities (tuple[int, ...]): From 1 to 5.
        models (tuple[str, ...] | None): Of 'base', 'smoothed' and 'denoised'; by default all that
            the config has.
        draws (int): New draws at each input, whose majority is the smoothed model's prediction.
        normals (bool): Whether columns 3 to 5 of clouds are normals, which turn with the points.
        seed (int): Of corruptions and draws.

    Raises:
        ValueError: If a value is out of range.
    """

    corruptions: tuple[str, ...] = ('common',)
    severities: tuple[int, ...] = SEVERITIES
    models: tuple[str, ...] | None = None
    draws: int = 100
    normals: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise ValueError(f'severities must be of 1 to 5, got {list(self.severities)}')
        if self.models is not None and not (self.models and set(self.models) <= set(MODELS)):
            raise ValueError(f'models must be of {", ".join(MODELS)}, got {list(self.models)}')
        if self.draws < 1:
            raise ValueError(f'draws must be at least 1, got {self.draws}')


@dataclass(frozen=True, eq=False)
class CorruptedInput:
    """What was found for one input, one corruption and one severity.

    Attributes:
        facts (dict): JSON values: ``name`` and ``index`` of the input, ``corruption``, ``severity``
            (0 for clean), and of corrupted ones ``covered``, ``tau``, ``distance``, ``measure``,
            ``reach``, and numbers of components: ``components``, ``certified``, ``broken``.
        confusions (dict[str, np.ndarray]): Ground truth by prediction, with a last column for
            abstentions, shape (C, C + 1): by model, and 'certified' except of clean inputs.
    """

    facts: dict[str, Any]
    confusions: dict[str, Confusion]


class CorruptionRun(InputRun):
    """All corruptions of a run.

    Args:
        source (Source): The model and its inputs.
        options (CorruptionOptions): What to do.
        limit (int | None): How many inputs, evenly spaced; None for all.

    Raises:
        ValueError: If a corruption is not known, or a model is not there.
        RuntimeError: If the library of corruptions is missing.
    """

    doing = 'corruptions'
    shown_by = '--corruptions'

    def __init__(
        self, source: Source[Any], options: CorruptionOptions, limit: int | None = None
    ) -> None:
        self.options = options
        super().__init__(source, limit)
        domain = self.plan.perturbation.domain
        self.open(
            {
                'models': self.models,
                'draws': options.draws,
                'normals': options.normals,
                'seed': options.seed,
                'library': library_versions() if domain == 'image' else {'numpy': np.__version__},
                'certified': self.plan.settings_to_dict(),
                'guarantee': self.plan.guarantee().to_dict(),
            }
        )

    def check(self) -> None:
        """Refuses corruptions of other inputs, and models that are not there."""
        check_corruptions(self.plan, self.options)

    @cached_property
    def corruptions(self) -> list[Corruption]:
        """The corruptions."""
        found = chosen(self.options.corruptions, self.plan.perturbation.domain)
        normals, least = self.options.normals, self.source.points_needed()
        return [
            replace(one, normals=normals, least=least) if isinstance(one, CloudCorruption) else one
            for one in found
        ]

    @property
    def models(self) -> list[str]:
        """The models, in the order of ``MODELS``."""
        wanted = self.options.models or MODELS
        return [model for model in _there(self.plan) if model in wanted]

    @property
    def smoothing(self) -> Perturbation | None:
        """What smooths the model; None for an enumeration."""
        return _smoothing(self.plan)

    @property
    def bounded(self) -> str:
        """The model that certificates speak of."""
        return 'base' if self.smoothing is None else 'smoothed'

    @property
    def wanted(self) -> list[tuple[Corruption | None, int]]:
        """What is looked at of each input: None for clean, and each severity of each corruption."""
        corrupted = [(one, severity) for one in self.corruptions
                     for severity in self.options.severities]  # fmt: skip
        return [(None, 0), *corrupted]

    def file(self, index: int, corruption: Corruption | None, severity: int) -> Path:
        """Where results of an input go."""
        name = CLEAN if corruption is None else corruption.name
        return self.folder / f'{index:05d}-{name}-{severity}.npz'

    def __iter__(self) -> Iterator[list[CorruptedInput]]:
        """What is found for each input, clean first; what is stored is read."""
        require_writable(self.folder)
        with self.source.computing():
            for index in self.indices:
                files = [self.file(index, *wanted) for wanted in self.wanted]
                if not all(file.exists() for file in files):
                    self.computed += 1
                    judged = Judged(self, Item(self, index))
                    for file, wanted in zip(files, self.wanted, strict=True):
                        if not file.exists():
                            _store(file, judged.under(*wanted))
                yield [read_corrupted(file) for file in files]


def check_corruptions(plan: CertificationPlan, options: CorruptionOptions) -> None:
    """Refuses corruptions of other inputs, and models that are not there; needs no model.

    Raises:
        ValueError: If there are such.
        RuntimeError: If the library of corruptions is missing.
    """
    require_pixels(plan)
    chosen(options.corruptions, plan.perturbation.domain)
    if plan.perturbation.domain == 'image':
        library_versions()
    there = _there(plan)
    if missing := [model for model in options.models or () if model not in there]:
        reason = {
            'smoothed': 'an enumeration smooths nothing',
            'denoised': 'there is no denoiser (in a config: `smoothing.denoiser`)',
        }
        raise ValueError(f'there is no {missing[0]} model: {reason[missing[0]]}')


def _there(plan: CertificationPlan) -> list[str]:
    """Models that there are."""
    denoiser = 'denoiser' in plan.input_to_dict()
    there = {'base': True, 'smoothed': _smoothing(plan) is not None, 'denoised': denoiser}
    return [model for model in MODELS if there[model]]


def _smoothing(plan: CertificationPlan) -> Perturbation | None:
    """What smooths the model; None for an enumeration."""
    perturbation = plan.perturbation
    if perturbation.enumerated is not None:
        return None
    if isinstance(perturbation, TransformationCells):
        assert isinstance(perturbation.noise, Perturbation)
        return perturbation.noise
    return perturbation


class Judged:
    """The models on one input, clean and corrupted.

    Args:
        run (CorruptionRun): The run.
        item (Item): The input.
    """

    def __init__(self, run: CorruptionRun, item: Item) -> None:
        self.run, self.item = run, item

    @cached_property
    def coverage(self) -> Coverage:
        """What certificates of the clean input cover."""
        return coverage(self.run.plan.perturbation, self.item.clean)

    @cached_property
    def reach(self) -> float | None:
        """The largest distance that a certificate with so many draws can cover, if it is known."""
        plan, item = self.run.plan, self.item
        if plan.settings is None or plan.sampling.n is None:
            return None
        sampling, components = plan.sampling, item.components
        tau = max_tau(plan.sampling.n, plan.test_settings, components, sampling.n0)
        return None if tau is None else self.coverage.reach(tau)

    @torch.no_grad()
    def under(self, corruption: Corruption | None, severity: int) -> CorruptedInput:
        """The models under a corruption; None for none."""
        run, item, source = self.run, self.item, self.run.source
        facts = {
            'name': item.name,
            'index': item.index,
            'corruption': CLEAN if corruption is None else corruption.name,
            'severity': severity,
        }
        if corruption is None:
            predictions, _ = self._predictions(item.segment, item.clean)
            return CorruptedInput(facts, self._confusions(item.label, predictions))
        found = corruption(item.raw, severity, run.options.seed)
        inputs, segment = source.clean_input(found.inputs), item.segment
        label = item.label
        if found.origin is not None:
            segment, label = item.segmentor(found.inputs), self._label_at(found.origin)
        predictions, counts = self._predictions(segment, inputs)
        confusions = self._confusions(label, predictions)
        certified, bound = self._certified(found, inputs, corruption.name, severity)
        facts |= certified | {'broken': 0, 'components': int(predictions['base'].size)}
        shown = np.full(predictions['base'].shape, ABSTAIN_LABEL)
        if bound is not None:
            shown = np.where(bound.certified, item.guess, ABSTAIN_LABEL)
            facts['broken'] = self._broken(bound, segment, inputs, counts, predictions)
        confusions |= self._confusions(label, {'certified': shown})
        return CorruptedInput(facts, confusions)

    def _predictions(
        self, segment: OpenSegmentor, inputs: torch.Tensor
    ) -> tuple[dict[str, NDArray[np.int64]], torch.Tensor | None]:
        """The label map of each model, and how often each class came up under the smoothed one."""
        run, counts = self.run, None
        labels = {'base': segment.base_alone.with_margin(inputs)[0]}
        if 'smoothed' in run.models:
            counts = self._counts(segment, inputs, run.options.draws, run.options.seed)
            labels['smoothed'] = counts.argmax(dim=0)
        if 'denoised' in run.models:
            output, count = segment([inputs]), len(run.source.classes)
            if not isinstance(output, LogitMaps):
                output = checked_labels(output, 1, count)
            labels['denoised'] = label_maps(output, count)[0]
        return {
            name: found.cpu().numpy().astype(np.int64) for name, found in labels.items()
        }, counts

    def _confusions(
        self, label: NDArray[np.int64] | None, predictions: dict[str, NDArray[np.int64]]
    ) -> dict[str, Confusion]:
        classes, ignore = len(self.run.source.classes), self.run.source.ignore_index
        return {
            name: confusion_of(label, found, classes, ignore) for name, found in predictions.items()
        }

    def _label_at(self, origin: torch.Tensor) -> NDArray[np.int64] | None:
        """The ground truth of the points of a corrupted cloud: of added ones there is none."""
        if self.item.label is None:
            return None
        places = origin.cpu().numpy()
        return np.where(places < 0, self.run.source.ignore_index, self.item.label[places])

    def _certified(
        self, found: Corrupted, inputs: torch.Tensor, name: str, severity: int
    ) -> tuple[dict[str, Any], Certificate | None]:
        """What is covered, as JSON values, and the certificate if there is one that helps."""
        item = self.item
        facts: dict[str, Any] = {'covered': False, 'tau': None, 'distance': None, 'certified': 0}
        facts |= {'measure': None, 'reach': None}
        alike = self.run.source.differ_in_input_alone(item.raw, found.inputs)
        if self.run.bounded not in self.run.models or not alike:
            return facts, None
        cover = self.coverage.of(inputs, name, severity, found.rotation)
        facts['distance'] = cover.distance
        facts |= {'measure': self.coverage.measure, 'reach': self.reach}
        if not cover.covered or (cover.tau is not None and item.infeasible(cover.tau)):
            return facts, None
        if cover.tau is None:
            certificate = item.certified.record.certify(item.certified.settings)
        else:
            certificate = item.certificate(cover.tau)
        facts |= {
            'covered': True,
            'tau': cover.tau,
            'certified': int(certificate.certified.sum()),
        }
        return facts, certificate

    def _broken(
        self,
        certificate: Certificate,
        segment: OpenSegmentor,
        inputs: torch.Tensor,
        counts: torch.Tensor | None,
        predictions: dict[str, NDArray[np.int64]],
    ) -> int:
        """How many certified components have lost their class beyond doubt."""
        run, certified, guess = self.run, certificate.certified, self.item.guess
        if run.bounded == 'base':
            return int((certified & (predictions['base'] != guess)).sum())
        assert counts is not None
        doubtful = certified & (2 * hits_of(counts, guess) <= run.options.draws)
        if not doubtful.any():
            return 0
        # Other draws than those that raised the doubt, and enough to be sure.
        tests = (len(run.wanted) - 1) * len(run.indices) * int(certified.sum())
        sure = max(SURE, draws_for(LEVEL / tests))
        hits = hits_of(self._counts(segment, inputs, sure, run.options.seed + 1), guess)
        broken = int((doubtful & (minority_p_values(hits, sure) < LEVEL / tests)).sum())
        return broken if broken >= certificate.k else 0

    def _counts(
        self, segment: OpenSegmentor, inputs: torch.Tensor, draws: int, seed: int
    ) -> torch.Tensor:
        """How often each class came up among new draws."""
        assert self.run.smoothing is not None
        sampling = replace(self.run.plan.sampling, seed=seed)
        return class_counts(segment, inputs, self.run.smoothing, sampling, draws)


def _store(file: Path, found: CorruptedInput) -> None:
    """Writes what was found, at once or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f'confusion_{key}': value for key, value in found.confusions.items()}
    with atomic_writer(file) as stream:
        np.savez_compressed(stream, facts=np.array(json.dumps(found.facts)), **arrays)


def read_corrupted(file: Path) -> CorruptedInput:
    """What was stored of one input, one corruption and one severity."""
    with np.load(file, allow_pickle=False) as arrays:
        prefix = 'confusion_'
        confusions = {
            key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)
        }
        return CorruptedInput(json.loads(str(arrays['facts'])), confusions)


def report(source: Source[Any], options: CorruptionOptions, limit: int | None = None) -> bool:
    """Corrupts, writes the results, and says whether a certificate is broken."""
    run = CorruptionRun(source, options, limit)
    log, found, began = source.logger.info, [], time.monotonic()
    log(
        f'{len(run.corruptions)} corruptions at severities '
        f'{", ".join(map(str, options.severities))} of {run.counted()}; results go to {run.folder}'
    )
    if note := run.note_on_votes:
        log(note)
    for number, one in enumerate(run, 1):
        found.append(one)
        left = run.left(number, time.monotonic() - began)
        log(f'{number}/{len(run.indices)} {_line(run, one)}; {left}')
    summary = summarise(run, found)
    write_json(run.folder / 'summary.json', summary)
    notes = describe(run, summary)
    with atomic_writer(run.folder / 'corruptions.md') as stream:
        stream.write(corruption_page(summary, notes).encode())
    if is_labelled(summary):
        plot_corruptions(summary, run.folder / 'corruptions.png')
    log('\n' + '\n'.join([*notes, corruption_table(summary), f'figures: {run.folder}']))
    for broken in summary['broken']:
        log(
            f'BROKEN CERTIFICATE: {broken["input"]} (number {broken["index"]} of the test data), '
            f'{broken["corruption"]} at severity {broken["severity"]}, which is certified: '
            f'{broken["components"]} certified components have lost their class (seed '
            f'{broken["seed"]})'
        )
    log(run.how_to_look)
    return bool(summary['broken'])


def _line(run: CorruptionRun, found: Sequence[CorruptedInput]) -> str:
    """One input in a line of the log."""
    clean, *corrupted = found
    models = []
    for model in run.models:
        before = rates_of(clean.confusions[model])['accuracy']
        after = np.mean([rates_of(one.confusions[model])['accuracy'] for one in corrupted])
        models.append(f'{model} {before:.3f}, corrupted {after:.3f}')
    labelled = any(found.any() for found in clean.confusions.values())
    accuracy = f'accuracy {"; ".join(models)}; ' if labelled else ''
    covered = sum(one.facts['covered'] for one in corrupted)
    return (
        f'{clean.facts["name"]}: {accuracy}certificates cover {covered} of {len(corrupted)} '
        'corrupted versions'
    )


def summarise(run: CorruptionRun, found: Sequence[Sequence[CorruptedInput]]) -> dict[str, Any]:
    """The summary of a run, as this module's docstring has it, of what is found of each input."""
    columns = [list(column) for column in zip(*found, strict=True)]
    clean = {model: rates_of(_total(columns[0], model)) for model in run.models}
    corruptions, place = [], 1
    for corruption in run.corruptions:
        part = columns[place : place + len(run.options.severities)]
        place += len(part)
        entries = [_severity(run, column) for column in part]
        mean = {
            model: mean_rates(
                {entry['severity']: entry['rates'][model] for entry in entries},
                clean[model],
                corruption.category,
            )
            for model in run.models
        }
        corruptions.append(
            {
                'corruption': corruption.name,
                'category': corruption.category,
                'severities': entries,
                'mean': mean,
            }
        )
    return {
        'format': 'mmcert corruptions',
        'version': 1,
        'settings': {
            **run.settings,
            'severities': list(run.options.severities),
            'inputs': len(run.indices),
        },
        'identity': run.source.identity,
        'input_type': run.plan.input_word,
        'models': run.models,
        'bounded': run.bounded,
        'measure': next(iter(_known(columns[1:], 'measure')), None),
        'reach': max(_known(columns[1:], 'reach'), default=None),
        'clean': clean,
        'corruptions': corruptions,
        'mean': {model: overall(corruptions, model) for model in run.models},
        'broken': [
            {
                'input': one.facts['name'],
                'index': one.facts['index'],
                'corruption': one.facts['corruption'],
                'severity': one.facts['severity'],
                'tau': one.facts['tau'],
                'components': one.facts['broken'],
                'seed': run.options.seed,
            }
            for column in columns[1:]
            for one in column
            if one.facts['broken']
        ],
    }


def _known(columns: Sequence[Sequence[CorruptedInput]], key: str) -> list[Any]:
    """A fact of all inputs for which it is known."""
    values = [one.facts[key] for column in columns for one in column]
    return [value for value in values if value is not None]


def _total(column: Sequence[CorruptedInput], key: str) -> Confusion:
    return np.sum([one.confusions[key] for one in column], axis=0)


def _severity(run: CorruptionRun, column: Sequence[CorruptedInput]) -> dict[str, Any]:
    """All inputs under one corruption at one severity."""
    facts = [one.facts for one in column]
    distances = [fact['distance'] for fact in facts if fact['distance'] is not None]
    certified = None
    if covered := sum(fact['covered'] for fact in facts):
        share = sum(f['certified'] for f in facts) / sum(f['components'] for f in facts)
        bounds = bounds_of(_total(column, 'certified'))
        certified = {'inputs': covered, 'share': share, **bounds}
    return {
        'severity': facts[0]['severity'],
        'rates': {model: rates_of(_total(column, model)) for model in run.models},
        'distance': {
            'min': min(distances),
            'median': float(np.median(distances)),
            'max': max(distances),
        } if distances else None,
        'certified': certified,
        'broken': sum(fact['broken'] for fact in facts),
    }  # fmt: skip


def describe(run: CorruptionRun, summary: dict[str, Any]) -> list[str]:
    """What the table and the curves mean, in paragraphs."""
    options, word = run.options, run.plan.input_word
    notes = [
        f'mIoU over {run.counted()}, clean and under corruptions. "mean" is over severities, of '
        'noise over the first three alone, as the SegFormer paper has it; the relative drop is 1 - '
        'mean / clean.'
    ] * is_labelled(summary)
    if 'smoothed' in run.models:
        notes.append(
            f'The smoothed model is the majority of {options.draws} new draws at each {word}.'
        )
    if run.bounded not in run.models:
        return notes
    covered = [
        entry['certified']['inputs']
        for found in summary['corruptions']
        for entry in found['severities']
        if entry['certified']
    ]
    each = 'exact' if run.smoothing is None else (
        f'with probability {1 - run.plan.test_settings.alpha:g} per {word}, corruption and severity'
    )  # fmt: skip
    if covered:
        notes.append(
            f'"at least" is a lower bound for the {run.bounded} model over all {word}s ({each}): '
            'what is not certified, or not covered by a certificate, counts as wrong.'
        )
    else:
        notes.append(
            f'No certificate covers any of these corruptions: {_why_not(run, summary)}, so no '
            'bounds are drawn.'
        )
    return notes


def _why_not(run: CorruptionRun, summary: dict[str, Any]) -> str:
    """How far corruptions lie outside of what is certified, in words."""
    entries = [entry for found in summary['corruptions'] for entry in found['severities']]
    distances = [entry['distance']['min'] for entry in entries if entry['distance']]
    if not distances or summary['reach'] is None:
        return f'none lies provably in the attack set of {run.plan.perturbation!r}'
    return (
        f'the nearest is {min(distances):.3g} away ({summary["measure"]}), and '
        f'certificates with so many draws reach {summary["reach"]:.3g} at most'
    )
