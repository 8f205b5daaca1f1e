_base_ = [
    '../_base_/models/pointnet2_msg_part.py',
    '../_base_/datasets/shapenet_part_xyz_2048.py',
    '../_base_/schedules/adam_part_250e.py',
    '../_base_/default_runtime_3d.py',
]
model = dict(
    backbone=dict(in_channels=3),
    decode_head=dict(fp_channels=((1536, 256, 256), (576, 256, 128), (147, 128, 128))),
)
