_base_ = [
    '../_base_/models/pointnet2_msg_part_published.py',
    '../_base_/datasets/shapenet_part_2048.py',
    '../_base_/schedules/adam_part_250e.py',
    '../_base_/default_runtime_3d.py',
    '../_base_/smoothing/part_noise_s0.5.py',
]
train_pipeline = [*_base_.shape_transform, _base_.noise, *_base_.pack_transform]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
