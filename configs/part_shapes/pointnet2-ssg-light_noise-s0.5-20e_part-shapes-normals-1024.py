_base_ = [
    './pointnet2-ssg-light_clean-20e_part-shapes-normals-1024.py',
    '../_base_/smoothing/part_segmentation.py',
]
train_pipeline = [
    *_base_.shape_transform,
    dict(type='RandomJitterPoints', jitter_std=[0.5, 0.5, 0.5], clip_range=None),
    *_base_.pack_transform,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(sigma=0.5, runs=1)
