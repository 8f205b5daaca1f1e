"""The maps that a smoothed model adds to its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_FIELDS = {
    'label': 'gt_sem_seg',
    'pred': 'pred_sem_seg',
    'cert': 'cert_sem_seg',
    'base': 'base_sem_seg',
    'radius': 'cert_radius',
}

CLOUD_FIELDS = {
    'label': ('gt_pts_seg', 'pts_semantic_mask'),
    'pred': ('pred_pts_seg', 'pts_semantic_mask'),
    'cert': ('cert_pts_seg', 'pts_semantic_mask'),
    'base': ('base_pts_seg', 'pts_semantic_mask'),
    'radius': ('cert_radius', 'radius'),
}


def certified_maps(sample: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The maps of an image or a cloud.

    Args:
        sample (Mapping): A data sample that a smoothed model returned, by ``to_dict()``.

    Returns:
        dict: ``pred``, ``cert``, ``base`` and ``radius``, ``label`` where there is a ground truth,
        of shape (H, W) or (N,); with a taxonomy ``levels``, shape (1 + L, ...).
    """
    if 'cert_pts_seg' in sample:
        fields = {name: field for name, field in CLOUD_FIELDS.items() if field[0] in sample}
        maps = {name: _array(sample[field][key]) for name, (field, key) in fields.items()}
        if 'cert_levels' in sample:
            maps['levels'] = _array(sample['cert_levels']['levels']).T
        return maps
    maps = {k: _array(sample[f]['data'])[0] for k, f in IMAGE_FIELDS.items() if f in sample}
    if 'cert_levels' in sample:
        maps['levels'] = _array(sample['cert_levels']['data'])
    return maps


def _array(value: Any) -> NDArray[Any]:
    return value.cpu().numpy() if hasattr(value, 'cpu') else np.asarray(value)
