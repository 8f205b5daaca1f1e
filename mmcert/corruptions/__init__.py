"""Common corruptions of images and point clouds, seeded: torch, and no OpenMMLab package.

A corruption is what may happen to an input by accident, in five severities. It is no attack: nobody
looks for the worst one. ``coverage`` says where a certificate proves something of a corrupted input
all the same.
"""

from mmcert.corruptions.base import SEVERITIES, Corrupted, Corruption
from mmcert.corruptions.coverage import Cover, Coverage, coverage
from mmcert.corruptions.registry import CORRUPTIONS, GROUPS, chosen

__all__ = [
    'CORRUPTIONS',
    'GROUPS',
    'SEVERITIES',
    'Corrupted',
    'Corruption',
    'Cover',
    'Coverage',
    'chosen',
    'coverage',
]
