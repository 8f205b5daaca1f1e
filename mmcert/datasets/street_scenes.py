"""Street scenes as a data set of mmsegmentation."""

from functools import partial
from typing import Any

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from mmcert.registry import DATASETS
from mmcert.scenes import CLASSES, write_scenes


@DATASETS.register_module()
class StreetScenesDataset(BaseSegDataset):
    """Street scenes drawn from a seed, as PNG files that are made when first needed.

    Args:
        split (str): 'train', 'val' or 'test'; their scenes differ.
        num_images (int): Number of scenes.
        size (tuple[int, int]): Height and width in pixels.
        data_root (str): Folder for the files; each split, number and size has its own in it.
        **kwargs: Passed to ``mmseg.datasets.BaseSegDataset``.

    Raises:
        ValueError: If the split is unknown or a size is out of range.
    """

    METAINFO = {'classes': tuple(CLASSES), 'palette': list(CLASSES.values())}

    def __init__(
        self,
        split: str,
        num_images: int,
        size: tuple[int, int] = (128, 192),
        data_root: str = 'data/street_scenes',
        **kwargs: Any,
    ) -> None:
        folder = write_scenes(
            data_root, split, num_images, size, partial(print_log, logger='current')
        )
        super().__init__(
            img_suffix='.png',
            seg_map_suffix='.png',
            data_root=str(folder),
            data_prefix=dict(img_path='images', seg_map_path='annotations'),
            **kwargs,
        )
