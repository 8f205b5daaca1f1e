_base_ = [
    './pointnet2-ssg-light_clean-20e_part-shapes-xyz-1024.py',
    '../_base_/smoothing/part_noise_s0.5.py',
]
train_pipeline = [*_base_.shape_transform, _base_.noise, *_base_.pack_transform]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(runs=1)
