"""Mean IoU of parts, by hand."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet3d')

from mmdet3d.structures import Det3DDataSample, PointData

from mmcert.datasets.shapenet_part import ShapeNetPartDataset
from mmcert.evaluation.part_iou import PartIoUMetric, part_ious


@pytest.mark.parametrize(
    ('prediction', 'label', 'parts', 'ious'),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], [0, 1], [1, 1]),
        ([0, 1, 1, 1], [0, 0, 1, 1], [0, 1], [1 / 2, 2 / 3]),
        # Part 2 is absent in both; part 1 only predicted.
        ([0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 2], [3 / 4, 0, 1]),
        # An abstention is wrong for its true part, and nobody's prediction.
        ([254, 0, 1, 254], [0, 0, 1, 1], [0, 1], [1 / 2, 1 / 2]),
        ([254, 254], [5, 5], [4, 5], [1, 0]),
    ],
)
def test_ious_of_a_shape_by_hand(prediction, label, parts, ious):
    assert part_ious(prediction, label, parts).tolist() == pytest.approx(ious)


@pytest.mark.parametrize(
    ('prediction', 'label', 'parts', 'message'),
    [
        ([0, 1], [0], [0, 1], r'\(2,\) and \(1,\)'),
        ([], [], [0], 'N >= 1'),
        ([0], [0], [], 'at least one part'),
        ([0], [7], [0, 1], 'label 7'),
    ],
)
def test_ious_refuse_what_is_no_shape(prediction, label, parts, message):
    with pytest.raises(ValueError, match=message):
        part_ious(prediction, label, parts)


def judged(category, prediction, label, where='eval_ann_info'):
    sample = Det3DDataSample(metainfo=dict(category=category))
    sample.pred_pts_seg = PointData(pts_semantic_mask=torch.tensor(prediction))
    if where == 'eval_ann_info':
        sample.eval_ann_info = dict(pts_semantic_mask=np.array(label))
    else:
        sample.gt_pts_seg = PointData(pts_semantic_mask=torch.tensor(label))
    return sample.to_dict()


def test_the_metric_averages_over_shapes_and_over_categories():
    metric = PartIoUMetric()
    metric.dataset_meta = ShapeNetPartDataset.METAINFO
    metric.process(
        None,
        [
            judged('Mug', [36, 36, 37, 37], [36, 36, 37, 37]),  # 1
            judged('Mug', [36, 37, 37, 37], [36, 36, 37, 37], 'gt_pts_seg'),  # 7 / 12
            judged('Cap', [7, 7], [6, 6]),  # 0
        ],
    )
    result = metric.evaluate(3)
    assert result == pytest.approx(
        {
            'part/accuracy': 7 / 10,
            'part/instance_mIoU': (1 + 7 / 12) / 3,
            'part/class_mIoU': (1 + 7 / 12) / 4,
            'part/Mug': (1 + 7 / 12) / 2,
            'part/Cap': 0,
        }
    )


def test_the_metric_says_what_it_misses():
    metric = PartIoUMetric()
    sample = judged('Mug', [36], [36])
    metric.dataset_meta = {}
    with pytest.raises(ValueError, match='category_parts'):
        metric.process(None, [sample])
    metric.dataset_meta = ShapeNetPartDataset.METAINFO
    with pytest.raises(ValueError, match='meta_keys'):
        metric.process(None, [{**sample, 'category': None}])
    with pytest.raises(ValueError, match='no ground truth'):
        metric.process(None, [{**sample, 'eval_ann_info': None}])
