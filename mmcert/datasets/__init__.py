"""Datasets of mmcert and the registered transforms of their pipelines."""

from mmcert.datasets.camvid import CamVidDataset
from mmcert.datasets.transforms import AddGaussianNoise

