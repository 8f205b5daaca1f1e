_base_ = [
    './pointnet2-ssg-light_clean-20e_part-shapes-normals-1024.py',
    '../_base_/smoothing/part_segmentation.py',
]
pack = dict(
    type='Pack3DDetInputs',
    keys=['points', 'pts_semantic_mask'],
    meta_keys=['lidar_path', 'sample_idx', 'shape_id', 'category'],
)
train_pipeline = [
    dict(type='mmcert.LoadShape', use_normals=True),
    dict(type='mmcert.CentreAndScale'),
    dict(type='mmcert.SampleShapePoints', num_points=1024),
    dict(type='RandomJitterPoints', jitter_std=[0.25, 0.25, 0.25], clip_range=None),
    dict(type='mmcert.AppendCategory'),
    pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(sigma=0.25, runs=1)
