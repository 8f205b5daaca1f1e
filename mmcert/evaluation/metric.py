"""Certified accuracy, mIoU and abstention in mmengine's evaluator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from mmcert.certify import Hierarchy
from mmcert.certify.dataset import dataset_statement
from mmcert.fields import certified_maps
from mmcert.files import write_json, write_json_lines
from mmcert.metrics.confusion import IGNORE_INDEX, ConfusionAccumulator, ConfusionCounts, total
from mmcert.registry import METRICS
from mmcert.report import (
    class_table,
    level_table,
    reference_table,
    region_table,
    result_table,
)


@dataclass(frozen=True)
class ImageResult:
    """What the metric keeps of one image."""

    name: str
    statement: dict[str, Any]
    tally: ConfusionCounts


@METRICS.register_module()
class CertifiedMetric(BaseMetric):
    """The metrics of certified segmentation, pooled over the data set.

    Where the threshold of an input is only an estimate, the names begin with ``estimated`` in place
    of the prefix.

    Reads the fields that ``mmcert.models.SmoothedSegmentor`` adds to the samples and the ground
    truth, where there is one. All values are unrounded fractions in [0, 1]; see
    ``mmcert.metrics.confusion.ConfusionCounts.rates`` for what each one is. ``radius`` is the
    certificate's.

    Args:
        num_classes (int): Number of classes C.
        ignore_index (int): Label of components without ground truth.
        hierarchy (Hierarchy | None): The hierarchy of the samples' ``cert_levels``.
        out_dir (str | None): Folder for ``summary.json`` and ``images.jsonl`` (the figures of each
            image, a line each); None writes nothing.
        collect_device (str): See ``mmengine.evaluator.BaseMetric``.
        prefix (str | None): See ``mmengine.evaluator.BaseMetric``.
    """

    default_prefix = 'certified'

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = IGNORE_INDEX,
        hierarchy: Hierarchy | None = None,
        out_dir: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.hierarchy = hierarchy
        self.out_dir = out_dir
        self.running = total([], num_classes)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Counts a batch of certified samples."""
        for sample in data_samples:
            statement, maps = sample['certificate'], certified_maps(sample)
            guess = maps['pred']
            accumulator = ConfusionAccumulator(
                maps.get('label'),
                guess,
                self.num_classes,
                base=maps['base'],
                ignore_index=self.ignore_index,
                boundaries=True,
            )
            levels = None
            if self.hierarchy is not None and 'levels' in maps:
                level, *nodes = maps['levels']
                levels = accumulator.hierarchy_counts(level, guess, nodes, self.hierarchy)
            counts = accumulator.tally(maps['cert'] == guess, statement['wrong_pixels'], levels)
            self.results.append(ImageResult(sample['name'], statement, counts))
            self.running = self.running + counts

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Pools the images, prints the tables and writes the files."""
        self.running = total([], self.num_classes)
        counts = total((result.tally for result in results), self.num_classes)
        rates = counts.rates()
        if not results:
            return rates
        statement = _common([result.statement for result in results])
        if 'radius' in statement:
            rates['radius'] = statement['radius']
        draws = [
            result.statement['n0'] + result.statement['n'] * result.statement.get('parts', 1)
            for result in results
        ]
        rates['draws'] = sum(draws) / len(draws)
        classes = (self.dataset_meta or {}).get('classes') or [
            str(index) for index in range(self.num_classes)
        ]
        estimated = any(result.statement['kind'] == 'estimate' for result in results)
        word, component = statement['input_kind'], statement['component_kind']
        if estimated:
            # The draws are counted as for a certificate, but at a threshold that may be too low.
            claim = f'estimated results of {counts.images} {word}s, without proof: '
            self.prefix = 'estimated'
        else:
            kind, but = 'certificates', ''
            if counts.allowance:
                kind, but = 'count certificates', ', for all but fewer than k certificates'
            claim = (
                f'certified results of {counts.images} {word}s, {kind}: with probability '
                f'{1 - statement["alpha"]:g} per {word}{but}, '
            )
        everywhere = dataset_statement(
            counts.images,
            statement['alpha'],
            digests=[result.statement['input'] for result in results],
        )
        # Where each image has a radius of its own, the words may differ.
        words = statement.get('words') or (
            f'the attack that the certificate of each {word} states changes no class that the '
            'smoothed model gives a certified component of it'
        )
        lines = [
            f'{claim}{words} ({statement["certified_space"]})',
            class_table(counts, classes),
            region_table(counts),
            level_table(counts),
            result_table([{**statement, **rates}]),
            reference_table(rates),
            _testing_line(results),
            _draws_line(results, draws, word, component),
            _attack_line(results, word, estimated),
        ]
        if not estimated:
            lines.append(
                f'{everywhere.describe()}. With alpha = {everywhere.alpha_for_all:.3g} per {word}, '
                f'all of them together would be right with probability {1 - statement["alpha"]:g}.'
            )
        print_log('\n'.join(filter(None, lines)), logger=MMLogger.get_current_instance())
        if self.out_dir is not None:
            summary = {
                'images': counts.images,
                'certificate': statement,
                'rates': rates,
                'draws': {'mean': rates['draws'], 'least': min(draws), 'most': max(draws)},
                'per_class': counts.per_class(),
                'regions': counts.by_region(),
                'classes': list((self.dataset_meta or {}).get('classes') or []),
            }
            if not estimated:
                summary['all_images'] = everywhere.to_dict()
            self._write(results, summary)
        return rates

    def _write(self, results: list[ImageResult], summary: dict[str, Any]) -> None:
        folder = Path(self.out_dir or '.')
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / 'summary.json', summary)
        copied = (
            'kind', 'components', 'certified', 'n', 'stopped', 'next_look_would_certify',
            'attack_on_this_input',
        )  # fmt: skip
        write_json_lines(
            folder / 'images.jsonl',
            (
                {'name': result.name, **result.tally.rates()}
                | {key: result.statement[key] for key in copied if key in result.statement}
                for result in results
            ),
        )


def _testing_line(results: list[ImageResult]) -> str:
    """At which threshold same draws were tested, where that is not tau."""
    taus = [
        result.statement['tested_tau'] for result in results if 'tested_tau' in result.statement
    ]
    if not taus:
        return ''
    values = ' to '.join(dict.fromkeys(f'{tau:.4f}' for tau in (min(taus), max(taus))))
    return (
        f'same_draws was tested at {values}, above tau, where it needs fewer hits: the claims at '
        'tau follow'
    )


def _draws_line(results: list[ImageResult], draws: list[int], word: str, component: str) -> str:
    """What group-sequential sampling took, and what more of it would bring."""
    gains = [
        result.statement['next_look_would_certify']['share_of_components']
        for result in results
        if 'next_look_would_certify' in result.statement
    ]
    if not gains:
        return ''
    reasons = Counter(result.statement['stopped'] for result in results)
    stopped = ', '.join(f'{reason} ({count})' for reason, count in reasons.items())
    more = 100 * sum(gains) / len(gains)
    return (
        f'draws per {word}: {sum(draws) / len(draws):.0f} on average, {min(draws)} to '
        f'{max(draws)}; '
        f'stopped because {stopped}; doubling the draws again would certify about {more:.1f}% of '
        f'the {component}s more (an estimate)'
    )


def _attack_line(results: list[ImageResult], word: str, estimated: bool) -> str:
    """Which thresholds an attack set took, where it is given."""
    attacks = [
        result.statement['attack_on_this_input']
        for result in results
        if 'attack_on_this_input' in result.statement
    ]
    if not attacks:
        return ''
    taus = [attack['tau'] for attack in attacks]
    note = '; it was only sampled: these results are an ESTIMATE, no certificate' * estimated
    return (
        f'threshold tau that the attack set takes: {median(taus):.6g} for the median '
        f'{word}, {min(taus):.6g} to {max(taus):.6g}{note}'
    )


def _common(statements: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all images share."""
    first, *others = statements
    return {key: value for key, value in first.items() if all(s.get(key) == value for s in others)}
