_base_ = ['./pointnet2_msg_part.py']
# The architecture of Pointnet_Pointnet2_pytorch, with which SegCertify's authors trained: the
# coordinates are features as well, the third level groups all points around the origin, and
# features are interpolated by squared distances.
model = dict(
    repeat_coordinates=True,
    # The coordinates, once more as features, and the normals.
    backbone=dict(in_channels=9, sa_cfg=dict(type='GroupingPointSAModule')),
    decode_head=dict(
        squared_distance=True,
        fp_channels=((1536, 256, 256), (576, 256, 128), (153, 128, 128)),
    ),
)
