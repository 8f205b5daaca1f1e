"""Under which names data samples carry what a smoothed model adds to them."""

IMAGE_FIELDS = {
    'label': 'gt_sem_seg',
    'pred': 'pred_sem_seg',
    'cert': 'cert_sem_seg',
    'base': 'base_sem_seg',
    'radius': 'cert_radius',
    'levels': 'cert_levels',
}
"""Of images: fields whose ``data`` is the map."""

CLOUD_FIELDS = {
    'label': ('gt_pts_seg', 'pts_semantic_mask'),
    'pred': ('pred_pts_seg', 'pts_semantic_mask'),
    'cert': ('cert_pts_seg', 'pts_semantic_mask'),
    'base': ('base_pts_seg', 'pts_semantic_mask'),
    'radius': ('cert_radius', 'radius'),
    'levels': ('cert_levels', 'levels'),
}
"""Of clouds: fields, and the key of the map within."""
