_base_ = [
    './pointnet2-ssg_clean-250e_shapenet-part-normals-2048.py',
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
    dict(type='mmcert.SampleShapePoints', num_points=2048),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[0, 0],
        scale_ratio_range=[0.8, 1.25],
        translation_std=[0.06, 0.06, 0.06],
    ),
    dict(type='RandomJitterPoints', jitter_std=[0.5, 0.5, 0.5], clip_range=None),
    dict(type='mmcert.AppendCategory'),
    pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(sigma=0.5)
