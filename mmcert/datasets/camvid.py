"""CamVid, the 11-class road scene dataset."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset

from mmcert.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """The Cambridge-driving Labeled Video Database in its 11-class, 480 x 360 version.

    Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", 2008, as distributed
    with the SegNet tutorial (367 / 101 / 233 frames); ``tools/dataset_converters/camvid.py``
    brings it into the folder layout used here. Annotations are PNG files with the class index, 255
    for unlabelled pixels.

    Args:
        img_suffix (str): Ending of the image files.
        seg_map_suffix (str): Ending of the annotation files.
        **kwargs: Passed to ``mmseg.datasets.BaseSegDataset``.
    """

    METAINFO = {
        'classes': (
            'sky',
            'building',
            'pole',
            'road',
            'sidewalk',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        'palette': [
            [70, 130, 180],
            [70, 70, 70],
            [153, 153, 153],
            [128, 64, 128],
            [244, 35, 232],
            [107, 142, 35],
            [220, 220, 0],
            [190, 153, 153],
            [0, 0, 142],
            [220, 20, 60],
            [119, 11, 32],
        ],
    }

    def __init__(
        self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs: Any
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
