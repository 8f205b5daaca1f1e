"""Certified metrics for mmengine's evaluator."""

from mmcert.evaluation.metric import CertifiedMetric

__all__ = ['CertifiedMetric']
