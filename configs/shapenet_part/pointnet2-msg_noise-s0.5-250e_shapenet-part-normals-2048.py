_base_ = [
    './pointnet2-msg_clean-250e_shapenet-part-normals-2048.py',
    '../_base_/smoothing/part_noise_s0.5.py',
]
train_pipeline = [*_base_.shape_transform, _base_.noise, *_base_.pack_transform]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
