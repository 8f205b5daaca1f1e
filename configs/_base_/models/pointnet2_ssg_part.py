_base_ = ['./part_segmentor.py']
# PointNet++ for part segmentation, single-scale grouping, in the sizes of its public code
# (pointnet2_part_seg.py). The third level, one group of all points there, is here the ball around
# one point that holds all of them.
model = dict(
    backbone=dict(
        type='PointNet2SASSG',
        in_channels=6,
        num_points=(512, 128, 1),
        radius=(0.2, 0.4, 10.0),
        num_samples=(64, 64, 128),
        sa_channels=((64, 64, 128), (128, 128, 256), (256, 512, 1024)),
        fp_channels=(),
        norm_cfg=dict(type='BN2d'),
        sa_cfg=dict(type='PointSAModule', pool_mod='max', use_xyz=True, normalize_xyz=False),
    ),
    # The last level gets 128 channels from below, 16 of the category, 3 of the coordinates and 3 of
    # the normals.
    decode_head=dict(
        type='mmcert.PartPointNet2Head',
        num_classes=50,
        channels=128,
        dropout_ratio=0.5,
        fp_channels=((1280, 256, 256), (384, 256, 128), (150, 128, 128, 128)),
        norm_cfg=dict(type='BN1d'),
    ),
)
