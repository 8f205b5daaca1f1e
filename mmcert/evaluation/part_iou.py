"""Part segmentation's mIoU, averaged over shapes and over categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from numpy.typing import ArrayLike, NDArray
from prettytable import PrettyTable

from mmcert.registry import METRICS


def part_ious(prediction: ArrayLike, label: ArrayLike, parts: Sequence[int]) -> NDArray[np.float64]:
    """IoU of each part of one shape.

    The convention of Yi et al. 2016 and PointNet++: a part that is neither predicted nor in the
    ground truth has IoU 1. A predicted label outside ``parts``, such as an abstention (254), is
    wrong: it counts in the union of the point's true part and nowhere else.

    Args:
        prediction (ArrayLike): Predicted labels, shape (N,), integers.
        label (ArrayLike): True labels, shape (N,), all of them in ``parts``.
        parts (Sequence[int]): The labels of the shape's category, P of them.

    Returns:
        np.ndarray: Fractions in [0, 1], shape (P,), float64.

    Raises:
        ValueError: If the shapes differ, there is no point or no part, or a true label is not in
            ``parts``.
    """
    predicted, true = np.asarray(prediction), np.asarray(label)
    if predicted.shape != true.shape or true.ndim != 1 or not true.size:
        raise ValueError(
            'prediction and label must have the same shape (N,) with N >= 1, got '
            f'{predicted.shape} and {true.shape}'
        )
    if not len(parts):
        raise ValueError('a category must have at least one part')
    foreign = ~np.isin(true, parts)
    if foreign.any():
        raise ValueError(f'label {true[foreign][0]} is not one of the parts {list(parts)}')
    of_predicted = predicted[:, None] == np.asarray(parts)
    of_true = true[:, None] == np.asarray(parts)
    union = (of_predicted | of_true).sum(axis=0)
    shared = (of_predicted & of_true).sum(axis=0)
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


@dataclass(frozen=True)
class _ShapeResult:
    """What the metric keeps of one shape."""

    category: str
    miou: float
    correct: int
    points: int
    certified_miou: float | None = None


@METRICS.register_module()
class PartIoUMetric(BaseMetric):
    """Accuracy and mIoU of part segmentation.

    A shape's mIoU is the mean over its category's parts (see ``part_ious``). ``instance_mIoU`` is
    the mean over all shapes, ``class_mIoU`` the mean over the categories' means; categories without
    a shape are left out. ``accuracy`` is the share of points with the right label. All values are
    unrounded fractions in [0, 1]; each category's mean is there under its name. Of certified shapes
    there are ``certified_instance_mIoU`` and ``certified_class_mIoU`` as well, where abstentions
    count as wrong.

    Reads ``pred_pts_seg``, ``category`` and the ground truth (``eval_ann_info`` or ``gt_pts_seg``)
    of each sample, and ``category_parts`` of the data set's metainfo.

    Args:
        collect_device (str): See ``mmengine.evaluator.BaseMetric``.
        prefix (str | None): See ``mmengine.evaluator.BaseMetric``.
    """

    default_prefix = 'part'

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Counts a batch of predicted shapes."""
        if 'category_parts' not in (self.dataset_meta or {}):
            raise ValueError(
                'the data set names no category_parts in its metainfo; PartIoUMetric needs a data '
                'set such as mmcert.ShapeNetPartDataset'
            )
        for sample in data_samples:
            category = str(sample.get('category'))
            parts = self.dataset_meta['category_parts'].get(category)
            if parts is None:
                raise ValueError(
                    f'a sample has the category {category!r}, which category_parts has not; '
                    "Pack3DDetInputs must keep it: meta_keys=(..., 'category')"
                )
            predicted = _as_array(sample['pred_pts_seg']['pts_semantic_mask'])
            true = _as_array(_ground_truth(sample))
            ious = part_ious(predicted, true, parts)
            correct = int((predicted == true).sum())
            certified = None
            if 'cert_pts_seg' in sample:
                labels = _as_array(sample['cert_pts_seg']['pts_semantic_mask'])
                certified = float(part_ious(labels, true, parts).mean())
            mean = float(ious.mean())
            self.results.append(_ShapeResult(category, mean, correct, true.size, certified))

    def compute_metrics(self, results: list[_ShapeResult]) -> dict[str, float]:
        """Averages the shapes and prints a table of the categories."""
        if not results:
            return {}
        means = _by_category([(r.category, r.miou) for r in results])
        averages = {
            'accuracy': sum(r.correct for r in results) / sum(r.points for r in results),
            'instance_mIoU': float(np.mean([r.miou for r in results])),
            'class_mIoU': float(np.mean(list(means.values()))),
        }
        certified = [
            (r.category, r.certified_miou) for r in results if r.certified_miou is not None
        ]
        of_certified = _by_category(certified)
        if certified:
            averages |= {
                'certified_instance_mIoU': float(np.mean([miou for _, miou in certified])),
                'certified_class_mIoU': float(np.mean(list(of_certified.values()))),
            }
        counts = Counter(result.category for result in results)
        table = PrettyTable(['category', 'shapes', 'mIoU', *(['certified'] if certified else [])])
        for name, mean in means.items():
            further = [f'{of_certified[name]:.4f}'] if certified else []
            table.add_row([name, counts[name], f'{mean:.4f}', *further])
        print_log(f'part segmentation\n{table}', logger=MMLogger.get_current_instance())
        return averages | means


def _by_category(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of each category, by name."""
    found: dict[str, list[float]] = {}
    for category, value in values:
        found.setdefault(category, []).append(value)
    return {name: float(np.mean(found[name])) for name in sorted(found)}


def _ground_truth(sample: dict) -> Any:
    """The true labels, wherever the pipeline put them."""
    for field in ('eval_ann_info', 'gt_pts_seg'):
        if 'pts_semantic_mask' in (sample.get(field) or {}):
            return sample[field]['pts_semantic_mask']
    raise ValueError(
        'a sample has no ground truth: Pack3DDetInputs must keep pts_semantic_mask, or the data '
        'set be in test mode'
    )


def _as_array(labels: Any) -> NDArray[np.integer]:
    return labels.cpu().numpy() if hasattr(labels, 'cpu') else np.asarray(labels)
