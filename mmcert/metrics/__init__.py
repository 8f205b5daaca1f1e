"""From certificates and labels to additive counts, and from those to rates."""

from mmcert.metrics.confusion import IGNORE_INDEX, ConfusionAccumulator, ConfusionCounts, total
from mmcert.metrics.information_gain import HierarchyCounts
from mmcert.metrics.radius_curve import RadiusCurve, count_radii
from mmcert.metrics.worst_case import worst_iou, worst_mean_iou

__all__ = [
    'IGNORE_INDEX',
    'ConfusionAccumulator',
    'ConfusionCounts',
    'HierarchyCounts',
    'RadiusCurve',
    'count_radii',
    'total',
    'worst_iou',
    'worst_mean_iou',
]
