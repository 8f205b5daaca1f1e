# ShapeNetPart without normals.
_base_ = ['./shapenet_part_2048.py']
pack = dict(
    type='Pack3DDetInputs',
    keys=['points', 'pts_semantic_mask'],
    meta_keys=['lidar_path', 'sample_idx', 'shape_id', 'category'],
)
train_pipeline = [
    dict(type='mmcert.LoadShape', use_normals=False),
    dict(type='mmcert.CentreAndScale'),
    dict(type='mmcert.SampleShapePoints', num_points=2048),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[0, 0],
        scale_ratio_range=[0.8, 1.25],
        translation_std=[0.06, 0.06, 0.06],
    ),
    dict(type='mmcert.AppendCategory'),
    pack,
]
test_pipeline = [
    dict(type='mmcert.LoadShape', use_normals=False),
    dict(type='mmcert.CentreAndScale'),
    dict(type='mmcert.SampleShapePoints', num_points=2048, seed=0),
    dict(type='mmcert.AppendCategory'),
    pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
