"""Certified metrics for mmengine's evaluator."""

from mmcert.evaluation.metric import CertifiedMetric
from mmcert.evaluation.part_iou import PartIoUMetric

__all__ = ['CertifiedMetric', 'PartIoUMetric']
