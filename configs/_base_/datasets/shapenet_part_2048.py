# ShapeNetPart with normals; sizes and augmentation as in PointNet++'s public training.
dataset_type = 'mmcert.ShapeNetPartDataset'
data_root = 'data/shapenetcore_partanno_segmentation_benchmark_v0_normal'
# Noise of a training config stands between these two.
shape_transform = [
    dict(type='mmcert.LoadShape', use_normals=True),
    dict(type='mmcert.CentreAndScale'),
    dict(type='mmcert.SampleShapePoints', num_points=2048),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[0, 0],
        scale_ratio_range=[0.8, 1.25],
        translation_std=[0.06, 0.06, 0.06],
    ),
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
    dict(type='mmcert.SampleShapePoints', num_points=2048, seed=0),
    *pack_transform,
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='trainval', pipeline=train_pipeline),
)
# Nothing is chosen by these figures: training sees the validation shapes, so they are the test's.
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='test',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='test',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
val_evaluator = dict(type='mmcert.PartIoUMetric')
test_evaluator = val_evaluator
