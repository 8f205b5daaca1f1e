"""Certified metrics for mmengine's evaluator, and the tables they print."""

from mmcert.evaluation.metric import CertifiedMetric
from mmcert.evaluation.report import class_table, result_table

__all__ = ['CertifiedMetric', 'class_table', 'result_table']
