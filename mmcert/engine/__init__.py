"""Hooks that turn a configured segmentor into a smoothed one, and train it to be one."""

from mmcert.engine.smooth_training import SmoothTraining
from mmcert.engine.smoothing_config import SmoothingConfig, check_config
from mmcert.engine.smoothing_hook import SmoothingHook

__all__ = ['SmoothTraining', 'SmoothingConfig', 'SmoothingHook', 'check_config']
