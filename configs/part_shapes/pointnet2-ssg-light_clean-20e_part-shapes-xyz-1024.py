_base_ = [
    '../_base_/models/pointnet2_ssg_part_light.py',
    '../_base_/datasets/part_shapes_xyz_1024.py',
    '../_base_/schedules/adamw_part_20e.py',
    '../_base_/default_runtime_3d.py',
]
model = dict(
    backbone=dict(in_channels=3),
    decode_head=dict(fp_channels=((384, 128), (192, 64), (83, 64, 64))),
)
