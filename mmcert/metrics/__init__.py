"""From certificates and labels to additive counts, and from those to rates."""

from mmcert.metrics.confusion import (
    IGNORE_INDEX,
    ConfusionAccumulator,
    ConfusionCounts,
    HierarchyCounts,
    tally,
    total,
)

__all__ = [
    'IGNORE_INDEX',
    'ConfusionAccumulator',
    'ConfusionCounts',
    'HierarchyCounts',
    'tally',
    'total',
]
