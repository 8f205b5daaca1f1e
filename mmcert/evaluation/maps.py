"""The maps that a smoothed model adds to its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.fields import CLOUD_FIELDS, IMAGE_FIELDS


def certified_maps(sample: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The maps of an image or a cloud.

    Args:
        sample (Mapping): A data sample that a smoothed model returned, by ``to_dict()``.

    Returns:
        dict: ``pred``, ``cert``, ``base`` and ``radius``, ``label`` where there is a ground truth,
        of shape (H, W) or (N,); with a hierarchy ``levels``, shape (1 + L, ...).
    """
    maps = {}
    if 'cert_pts_seg' in sample:
        for name, (field, key) in CLOUD_FIELDS.items():
            if field in sample:
                array = _array(sample[field][key])
                maps[name] = array.T if name == 'levels' else array
        return maps
    for name, field in IMAGE_FIELDS.items():
        if field in sample:
            array = _array(sample[field]['data'])
            maps[name] = array if name == 'levels' else array[0]
    return maps


def _array(value: Any) -> NDArray[Any]:
    return value.cpu().numpy() if hasattr(value, 'cpu') else np.asarray(value)
