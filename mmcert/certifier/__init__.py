"""Certification of any PyTorch model, input by input: no OpenMMLab package is needed."""

from mmcert.certifier.certifier import Certifier
from mmcert.certifier.code import attributes_digest, code_digest, weights_digest
from mmcert.certifier.document import entries, written_maps
from mmcert.certifier.plan import CertificationPlan, selections_of
from mmcert.certifier.result import CertifiedInput
from mmcert.certifier.segmentor import PlainSegmentor, Segmentor, UnrepeatableModelError

__all__ = [
    'CertificationPlan',
    'CertifiedInput',
    'Certifier',
    'PlainSegmentor',
    'Segmentor',
    'UnrepeatableModelError',
    'attributes_digest',
    'code_digest',
    'entries',
    'selections_of',
    'weights_digest',
    'written_maps',
]
