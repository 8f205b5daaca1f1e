_base_ = ['./part_segmentor.py']
# A PointNet++ (Qi, Yi, Su, Guibas 2017) with single-scale grouping, small enough to train in
# minutes on a CPU. Its first balls are large: noise of 0.25 moves a point by 0.4 on average.
model = dict(
    backbone=dict(
        type='PointNet2SASSG',
        in_channels=6,
        num_points=(128, 32, 1),
        radius=(0.4, 0.8, 8.0),
        num_samples=(32, 32, 32),
        sa_channels=((32, 32, 64), (64, 64, 128), (128, 128, 256)),
        fp_channels=(),
        norm_cfg=dict(type='BN2d'),
        sa_cfg=dict(type='PointSAModule', pool_mod='max', use_xyz=True, normalize_xyz=False),
    ),
    # The last level gets 64 channels from below, 16 of the category, 3 of the coordinates and 3 of
    # the normals.
    decode_head=dict(
        type='mmcert.PartPointNet2Head',
        num_classes=50,
        channels=64,
        dropout_ratio=0.0,
        fp_channels=((384, 128), (192, 64), (86, 64, 64)),
        norm_cfg=dict(type='BN1d'),
    ),
)
