"""Segmentors of images of any PyTorch library, certified without OpenMMLab."""

from mmcert.integrations.image_model import ImageModel, ModuleModel
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.integrations.smoothed import Smoothed, smooth

__all__ = ['ImageModel', 'ModuleModel', 'Preprocessing', 'Smoothed', 'smooth']
