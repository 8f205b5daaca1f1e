"""Part segmentation's mIoU, averaged over shapes and over categories."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from numpy.typing import ArrayLike, NDArray
from prettytable import PrettyTable

from mmcert.fields import as_array
from mmcert.metrics.counts import iou
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
    shared, union = (of_predicted & of_true).sum(axis=0), (of_predicted | of_true).sum(axis=0)
    return np.where(union > 0, iou(shared, union), 1.0)


@dataclass(frozen=True)
class _ShapeResult:
    """What the metric keeps of one shape."""

    category: str
    correct: int
    points: int
    miou: float
    certified: float | None = None


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

    The arguments are those of ``mmengine.evaluator.BaseMetric``.
    """

    default_prefix = 'part'

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
            true = as_array(_ground_truth(sample))
            predicted = as_array(sample['pred_pts_seg']['pts_semantic_mask'])
            mious = [float(part_ious(predicted, true, parts).mean())]
            if 'cert_pts_seg' in sample:
                labels = as_array(sample['cert_pts_seg']['pts_semantic_mask'])
                mious.append(float(part_ious(labels, true, parts).mean()))
            correct = int((predicted == true).sum())
            self.results.append(_ShapeResult(category, correct, true.size, *mious))

    def compute_metrics(self, results: list[_ShapeResult]) -> dict[str, float]:
        """Averages the shapes and prints a table of the categories."""
        if not results:
            return {}
        averages, means = _averages([(r.category, r.miou) for r in results])
        certified, of_certified = _averages(
            [(r.category, r.certified) for r in results if r.certified is not None]
        )
        shapes = Counter(result.category for result in results)
        table = PrettyTable(['category', 'shapes', 'mIoU', *(['certified'] if certified else [])])
        for name, mean in means.items():
            further = [f'{of_certified[name]:.4f}'] if certified else []
            table.add_row([name, shapes[name], f'{mean:.4f}', *further])
        print_log(f'part segmentation\n{table}', logger=MMLogger.get_current_instance())
        accuracy = sum(r.correct for r in results) / sum(r.points for r in results)
        certified = {f'certified_{name}': value for name, value in certified.items()}
        return {'accuracy': accuracy, **averages, **certified, **means}


def _averages(values: Sequence[tuple[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """The mean over shapes and that over categories, and the mean of each category by name."""
    found: dict[str, list[float]] = {}
    for category, value in values:
        found.setdefault(category, []).append(value)
    means = {name: float(np.mean(found[name])) for name in sorted(found)}
    if not means:
        return {}, {}
    instances = float(np.mean([value for _, value in values]))
    return {'instance_mIoU': instances, 'class_mIoU': float(np.mean(list(means.values())))}, means


def _ground_truth(sample: dict) -> Any:
    """The true labels, wherever the pipeline put them."""
    for field in ('eval_ann_info', 'gt_pts_seg'):
        if 'pts_semantic_mask' in (sample.get(field) or {}):
            return sample[field]['pts_semantic_mask']
    raise ValueError(
        'a sample has no ground truth: Pack3DDetInputs must keep pts_semantic_mask, or the data '
        'set be in test mode'
    )
