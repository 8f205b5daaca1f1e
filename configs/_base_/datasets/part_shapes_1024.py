# Synthetic shapes with normals, made when first needed.
dataset_type = 'mmcert.PartShapesDataset'
shapes_per_category = dict(train=80, val=4, test=10)
# Noise of a training config stands between these two.
shape_transform = [
    dict(type='mmcert.LoadShape', use_normals=True),
    dict(type='mmcert.CentreAndScale'),
    dict(type='mmcert.SampleShapePoints', num_points=1024),
]
pack_transform = [
    dict(type='mmcert.AppendCategory'),
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'pts_semantic_mask'],
        meta_keys=['lidar_path', 'sample_idx', 'shape_id', 'category'],
    ),
]
train_pipeline = [*shape_transform, *pack_transform]
test_pipeline = [
    dict(type='mmcert.LoadShape', use_normals=True),
    dict(type='mmcert.CentreAndScale'),
    dict(type='mmcert.SampleShapePoints', num_points=1024, seed=0),
    *pack_transform,
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        split='train',
        shapes_per_category=shapes_per_category,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        split='val',
        shapes_per_category=shapes_per_category,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        split='test',
        shapes_per_category=shapes_per_category,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
val_evaluator = dict(type='mmcert.PartIoUMetric')
test_evaluator = val_evaluator
