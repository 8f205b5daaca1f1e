"""Datasets of mmcert and the registered transforms of their pipelines."""

from mmcert.datasets.camvid import CamVidDataset
from mmcert.datasets.part_shapes import PartShapesDataset
from mmcert.datasets.shapenet_part import (
    AppendCategory,
    CentreAndScale,
    LoadShape,
    SampleShapePoints,
    ShapeNetPartDataset,
)
from mmcert.datasets.street_scenes import StreetScenesDataset
from mmcert.datasets.transforms import (
    AddGaussianNoise,
    PerturbImage,
    PerturbPoints,
    SemanticTransform,
)

__all__ = [
    'AddGaussianNoise',
    'AppendCategory',
    'CamVidDataset',
    'CentreAndScale',
    'LoadShape',
    'PartShapesDataset',
    'PerturbImage',
    'PerturbPoints',
    'SampleShapePoints',
    'SemanticTransform',
    'ShapeNetPartDataset',
    'StreetScenesDataset',
]
