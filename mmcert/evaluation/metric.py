"""Certified accuracy, mIoU and abstention in mmengine's evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from mmcert.certify.tallies import IGNORE_INDEX, Tally, tally, total
from mmcert.registry import METRICS
from mmcert.report import class_table, reference_table, result_table
from mmcert.report.files import write_json, write_json_lines


@dataclass(frozen=True)
class ImageResult:
    """What the metric keeps of one image."""

    name: str
    statement: dict[str, Any]
    tally: Tally


@METRICS.register_module()
class CertifiedMetric(BaseMetric):
    """The metrics of certified segmentation, pooled over the data set.

    Reads the fields that ``mmcert.models.SmoothedSegmentor`` adds to the samples and the ground
    truth, where there is one. All values are unrounded fractions in [0, 1]; see
    ``mmcert.certify.tallies.Tally.rates`` for what each one is. ``radius`` is the certificate's.

    Args:
        num_classes (int): Number of classes C.
        ignore_index (int): Label of pixels without ground truth.
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
        out_dir: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.out_dir = out_dir
        self.running = total([], num_classes)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Counts a batch of certified samples."""
        for sample in data_samples:
            statement = sample['certificate']
            guess = sample['pred_sem_seg']['data'].cpu().numpy()
            truth = sample.get('gt_sem_seg')
            counts = tally(
                None if truth is None else truth['data'].cpu().numpy(),
                guess,
                sample['cert_sem_seg']['data'].cpu().numpy() == guess,
                self.num_classes,
                base=sample['base_sem_seg']['data'].cpu().numpy(),
                ignore_index=self.ignore_index,
            )
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
        classes = (self.dataset_meta or {}).get('classes') or [
            str(index) for index in range(self.num_classes)
        ]
        print_log(
            '\n'.join(
                [
                    f'certified results of {counts.images} images, {statement["kind"]}s: with '
                    f'probability {1 - statement["alpha"]:g} per image, {statement["words"]} '
                    f'({statement["certified_space"]})',
                    class_table(counts, classes),
                    result_table([{**statement, **rates}]),
                    reference_table(rates),
                ]
            ),
            logger=MMLogger.get_current_instance(),
        )
        if self.out_dir is not None:
            self._write(results, statement, counts, rates)
        return rates

    def _write(
        self,
        results: list[ImageResult],
        statement: dict[str, Any],
        counts: Tally,
        rates: dict[str, float],
    ) -> None:
        folder = Path(self.out_dir or '.')
        folder.mkdir(parents=True, exist_ok=True)
        summary = {
            'images': counts.images,
            'certificate': statement,
            'rates': rates,
            'per_class': counts.per_class(),
            'classes': list((self.dataset_meta or {}).get('classes') or []),
        }
        write_json(folder / 'summary.json', summary)
        counts_of = ('components', 'certified')
        write_json_lines(
            folder / 'images.jsonl',
            (
                {'name': result.name, **result.tally.rates()}
                | {key: result.statement[key] for key in counts_of}
                for result in results
            ),
        )


def _common(statements: list[dict[str, Any]]) -> dict[str, Any]:
    """The terms that all images share."""
    first, *others = statements
    return {key: value for key, value in first.items() if all(s.get(key) == value for s in others)}
