"""Certified accuracy, mIoU and abstention in mmengine's evaluator."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from mmcert.certifier import entries
from mmcert.certify import Hierarchy
from mmcert.fields import certified_maps
from mmcert.metrics.confusion import IGNORE_INDEX, ConfusionAccumulator, total
from mmcert.metrics.results import InputResult
from mmcert.registry import METRICS
from mmcert.report.summary import Summary, write_summary


@METRICS.register_module()
class CertifiedMetric(BaseMetric):
    """The metrics of certified segmentation, pooled over the data set.

    Reads the fields that ``mmcert.models.SmoothedSegmentor`` adds to the samples and the ground
    truth, where there is one. All values are unrounded fractions in [0, 1]; see
    ``mmcert.metrics.ConfusionCounts.rates`` for what each one is. ``radius`` is the certificate's.
    The names begin with ``certified/``, or with ``estimated/`` where the threshold of an input is
    only an estimate.

    Args:
        num_classes (int): Number of classes C.
        ignore_index (int): Label of components without ground truth.
        hierarchy (Hierarchy | None): The hierarchy of the samples' ``cert_levels``.
        out_dir (str | None): Folder for ``summary.json`` and ``images.jsonl`` (the figures of each
            image, a line each); None writes nothing.
        collect_device (str): See ``mmengine.evaluator.BaseMetric``.

    Attributes:
        running (ConfusionCounts): The counts of all inputs that this process has seen.
        summary (Summary | None): The results of all processes, in the main one, once they are
            pooled.
    """

    # ``compute_metrics`` gives full names: their beginning depends on the results.
    default_prefix = ''

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = IGNORE_INDEX,
        hierarchy: Hierarchy | None = None,
        out_dir: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.hierarchy = hierarchy
        self.out_dir = out_dir
        self.running = total([], num_classes)
        self.summary: Summary | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Counts a batch of certified samples."""
        for sample in data_samples:
            certificate, maps = entries(sample['certificate']), certified_maps(sample)
            levels: Any = maps.get('levels', [None])
            level, *groups = levels
            image = ConfusionAccumulator(
                maps.get('label'),
                maps['pred'],
                self.num_classes,
                base=maps['base'],
                ignore_index=self.ignore_index,
                hierarchy=self.hierarchy,
            )
            certified = maps['cert'] == maps['pred']
            counts = image.count(certified, certificate['may_be_wrong'], level, groups)
            self.results.append(InputResult(sample['name'], certificate, counts))
            self.running = self.running + counts

    def compute_metrics(self, results: list[InputResult]) -> dict[str, float]:
        """Pools the inputs, prints the tables and writes the files."""
        if not results:
            rates = total([], self.num_classes).rates()
            return {f'certified/{name}': rate for name, rate in rates.items()}
        classes = (self.dataset_meta or {}).get('classes') or ()
        self.summary = summary = Summary(results, self.num_classes, classes)
        print_log(summary.describe(), logger=MMLogger.get_current_instance())
        if self.out_dir is not None:
            write_summary(summary, self.out_dir)
        prefix = 'estimated' if summary.estimated else 'certified'
        return {f'{prefix}/{name}': rate for name, rate in summary.rates.items()}
