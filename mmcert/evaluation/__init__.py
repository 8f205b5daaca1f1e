"""Certified metrics for mmengine's evaluator."""

from mmcert.evaluation.denoiser_metric import DenoiserMetric
from mmcert.evaluation.metric import CertifiedMetric
from mmcert.evaluation.part_iou import PartIoUMetric
from mmcert.evaluation.surrogate_metric import SurrogateMetric

__all__ = ['CertifiedMetric', 'DenoiserMetric', 'PartIoUMetric', 'SurrogateMetric']
