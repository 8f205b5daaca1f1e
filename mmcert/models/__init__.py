"""Smoothed models: adapters between mmsegmentation's models and mmcert's sampling."""

from mmcert.models.data_preprocessor import NoisySegDataPreProcessor
from mmcert.models.image_segmentor import ImageSegmentor, ModelOutputError
from mmcert.models.smoothed_segmentor import SmoothedSegmentor

__all__ = ['ImageSegmentor', 'ModelOutputError', 'NoisySegDataPreProcessor', 'SmoothedSegmentor']
