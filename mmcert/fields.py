"""The maps that a smoothed model adds to data samples, and the names of their fields."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_FIELDS = {
    'label': ('gt_sem_seg', 'data'),
    'pred': ('pred_sem_seg', 'data'),
    'cert': ('cert_sem_seg', 'data'),
    'base': ('base_sem_seg', 'data'),
    'radius': ('cert_radius', 'data'),
    'levels': ('cert_levels', 'data'),
}
"""Of images: the field of each map, and the key of the map within."""

CLOUD_FIELDS = {
    'label': ('gt_pts_seg', 'pts_semantic_mask'),
    'pred': ('pred_pts_seg', 'pts_semantic_mask'),
    'cert': ('cert_pts_seg', 'pts_semantic_mask'),
    'base': ('base_pts_seg', 'pts_semantic_mask'),
    'radius': ('cert_radius', 'radius'),
    'levels': ('cert_levels', 'levels'),
}
"""The same of clouds."""


def certified_maps(sample: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The maps of an image or a cloud.

    Args:
        sample (Mapping): A data sample that a smoothed model returned, by ``to_dict()``.

    Returns:
        dict: ``pred``, ``cert`` and ``base``, ``radius`` where there were tests, ``label`` where
        there is a ground truth, of shape (H, W) or (N,); with a hierarchy ``levels``, shape
        (1 + L, ...).
    """
    is_cloud = 'cert_pts_seg' in sample
    maps = {
        name: as_array(sample[field][key])
        for name, (field, key) in (CLOUD_FIELDS if is_cloud else IMAGE_FIELDS).items()
        if field in sample
    }
    if is_cloud:
        return {name: array.T if name == 'levels' else array for name, array in maps.items()}
    return {name: array if name == 'levels' else array[0] for name, array in maps.items()}


def as_array(value: Any) -> NDArray[Any]:
    """A tensor or an array, as an array."""
    return value.cpu().numpy() if hasattr(value, 'cpu') else np.asarray(value)
