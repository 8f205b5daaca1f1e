_base_ = [
    '../_base_/models/pointnet2_ssg_part_light.py',
    '../_base_/datasets/part_shapes_1024.py',
    '../_base_/schedules/adamw_part_20e.py',
    '../_base_/default_runtime_3d.py',
]
