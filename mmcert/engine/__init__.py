"""Hooks that turn a configured segmentor into a smoothed one."""

from mmcert.engine.smoothing_config import SmoothingConfig
from mmcert.engine.smoothing_hook import SmoothingHook

__all__ = ['SmoothingConfig', 'SmoothingHook']
