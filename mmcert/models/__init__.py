"""Smoothed models: adapters between mmsegmentation's models and mmcert's sampling."""

from mmcert.models import denoisers  # noqa: F401, registers them
from mmcert.models.data_preprocessor import NoisySegDataPreProcessor
from mmcert.models.denoiser_model import DenoiserModel
from mmcert.models.ensemble import SegmentorEnsemble
from mmcert.models.image_segmentor import ImageSegmentor
from mmcert.models.objectives import Consistency, Objective, TrainingStep
from mmcert.models.precision import PrecisionSettings
from mmcert.models.smoothed_segmentor import SmoothedSegmentor
from mmcert.models.surrogate_model import SurrogateModel
from mmcert.models.training_noise import ImageUnits, TrainingNoise

__all__ = [
    'Consistency',
    'DenoiserModel',
    'ImageSegmentor',
    'ImageUnits',
    'NoisySegDataPreProcessor',
    'Objective',
    'PrecisionSettings',
    'SegmentorEnsemble',
    'SmoothedSegmentor',
    'SurrogateModel',
    'TrainingNoise',
    'TrainingStep',
]
