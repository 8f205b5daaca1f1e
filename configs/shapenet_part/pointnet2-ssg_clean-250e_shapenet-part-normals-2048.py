_base_ = [
    '../_base_/models/pointnet2_ssg_part.py',
    '../_base_/datasets/shapenet_part_2048.py',
    '../_base_/schedules/adam_part_250e.py',
    '../_base_/default_runtime_3d.py',
]
