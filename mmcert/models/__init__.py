"""Smoothed models: adapters between mmsegmentation's models and mmcert's sampling."""

from mmcert.models import denoisers  # noqa: F401, registers them
from mmcert.models.data_preprocessor import NoisySegDataPreProcessor
from mmcert.models.denoiser_model import DenoiserModel
from mmcert.models.ensemble import SegmentorEnsemble
from mmcert.models.image_segmentor import ImageSegmentor
from mmcert.models.objectives import (
    CATRS,
    Consistency,
    Distillation,
    Objective,
    SmoothAdv,
    TrainingStep,
)
from mmcert.models.precision import PrecisionSettings
from mmcert.models.smoothed_segmentor import SmoothedSegmentor
from mmcert.models.surrogate_model import SurrogateModel
from mmcert.models.training_noise import ImageUnits, TrainingNoise

__all__ = [
    'CATRS',
    'Consistency',
    'DenoiserModel',
    'Distillation',
    'ImageSegmentor',
    'ImageUnits',
    'NoisySegDataPreProcessor',
    'Objective',
    'PrecisionSettings',
    'SegmentorEnsemble',
    'SmoothAdv',
    'SmoothedSegmentor',
    'SurrogateModel',
    'TrainingNoise',
    'TrainingStep',
]
