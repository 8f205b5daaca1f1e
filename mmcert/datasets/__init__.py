"""Datasets of mmcert and the registered transforms of their pipelines."""

from mmcert.datasets.camvid import CamVidDataset
from mmcert.datasets.street_scenes import StreetScenesDataset
from mmcert.datasets.transforms import AddGaussianNoise

__all__ = ['AddGaussianNoise', 'CamVidDataset', 'StreetScenesDataset']
