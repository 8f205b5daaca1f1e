"""CamVid, the 11-class road scene dataset."""

from typing import Any

from mmseg.datasets import BaseSegDataset

from mmcert.registry import DATASETS

CLASSES = {
    'sky': [70, 130, 180],
    'building': [70, 70, 70],
    'pole': [153, 153, 153],
    'road': [128, 64, 128],
    'sidewalk': [244, 35, 232],
    'tree': [107, 142, 35],
    'sign': [220, 220, 0],
    'fence': [190, 153, 153],
    'car': [0, 0, 142],
    'pedestrian': [220, 20, 60],
    'bicyclist': [119, 11, 32],
}
"""Classes, in the order of their indices, with their colours."""


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """The Cambridge-driving Labeled Video Database in its 11-class, 480 x 360 version.

    Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", 2008, as distributed
    with the SegNet tutorial (367 / 101 / 233 frames). ``tools/dataset_converters/camvid.py`` brings
    it into the folder layout used here. Annotations are PNG files with the class index, and 255 for
    unlabelled pixels.

    Args:
        img_suffix (str): Ending of the image files.
        seg_map_suffix (str): Ending of the annotation files.
        **kwargs: Passed to ``mmseg.datasets.BaseSegDataset``.

    >>> CamVidDataset.METAINFO['classes'][:3]
    ('sky', 'building', 'pole')
    """

    METAINFO = {'classes': tuple(CLASSES), 'palette': list(CLASSES.values())}

    def __init__(
        self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs: Any
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
