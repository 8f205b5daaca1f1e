_base_ = ['./part_segmentor.py']
# PointNet++ for part segmentation, multi-scale grouping, in the sizes of its public code
# (pointnet2_part_seg_msg_one_hot.py). The third level, one group of all points there, is here the
# ball around one point that holds all of them.
model = dict(
    backbone=dict(
        type='PointNet2SAMSG',
        in_channels=6,
        num_points=(512, 128, 1),
        radii=((0.1, 0.2, 0.4), (0.4, 0.8), (10.0,)),
        num_samples=((32, 64, 128), (64, 128), (128,)),
        sa_channels=(
            ((32, 32, 64), (64, 64, 128), (64, 96, 128)),
            ((128, 128, 256), (128, 196, 256)),
            ((256, 512, 1024),),
        ),
        aggregation_channels=None,
        fps_mods=('D-FPS', 'D-FPS', 'D-FPS'),
        fps_sample_range_lists=(-1, -1, -1),
        dilated_group=(False, False, False),
        out_indices=(0, 1, 2),
        norm_cfg=dict(type='BN2d'),
        sa_cfg=dict(type='PointSAModuleMSG', pool_mod='max', use_xyz=True, normalize_xyz=False),
    ),
    # The last level gets 128 channels from below, 16 of the category, 3 of the coordinates and 3 of
    # the normals.
    decode_head=dict(
        type='mmcert.PartPointNet2Head',
        num_classes=50,
        channels=128,
        dropout_ratio=0.5,
        fp_channels=((1536, 256, 256), (576, 256, 128), (150, 128, 128)),
        norm_cfg=dict(type='BN1d'),
    ),
)
