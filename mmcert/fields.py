"""The maps that a smoothed model adds to data samples, and the names of their fields."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.votes.confidence import KINDS

IMAGE_FIELDS = {
    'label': ('gt_sem_seg', 'data'),
    'pred': ('pred_sem_seg', 'data'),
    'cert': ('cert_sem_seg', 'data'),
    'base': ('base_sem_seg', 'data'),
    'radius': ('cert_radius', 'data'),
    'levels': ('cert_levels', 'data'),
    'vote_share': ('vote_share', 'data'),
    'lower_bound': ('cert_lower_bound', 'data'),
    'runner_up': ('runner_up_sem_seg', 'data'),
    'runner_up_share': ('runner_up_share', 'data'),
}
"""Of images: the field of each map, and the key of the map within."""

CLOUD_FIELDS = {
    'label': ('gt_pts_seg', 'pts_semantic_mask'),
    'pred': ('pred_pts_seg', 'pts_semantic_mask'),
    'cert': ('cert_pts_seg', 'pts_semantic_mask'),
    'base': ('base_pts_seg', 'pts_semantic_mask'),
    'radius': ('cert_radius', 'radius'),
    'levels': ('cert_levels', 'levels'),
    'vote_share': ('vote_share', 'vote_share'),
    'lower_bound': ('cert_lower_bound', 'lower_bound'),
    'runner_up': ('runner_up_pts_seg', 'pts_semantic_mask'),
    'runner_up_share': ('runner_up_share', 'runner_up_share'),
}
"""The same of clouds."""


def certified_maps(sample: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The maps of an image or a cloud.

    Args:
        sample (Mapping): A data sample that a smoothed model returned, by ``to_dict()``.

    Returns:
        dict: ``pred``, ``cert`` and ``base``, ``radius`` where there were tests, ``label`` where
        there is a ground truth, and the maps of confidence that there are (see
        ``mmcert.votes.confidence``), of shape (H, W) or (N,); with a hierarchy ``levels``, shape
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


def confidence_of(maps: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Of ``certified_maps``, those of confidence, as ``mmcert.votes.confidence`` names them."""
    named = {**maps, 'guess': maps['pred'].astype(np.uint8)}
    return {name: named[name] for name in KINDS if name in named}


def as_array(value: Any) -> NDArray[Any]:
    """A tensor or an array, as an array."""
    return value.cpu().numpy() if hasattr(value, 'cpu') else np.asarray(value)
