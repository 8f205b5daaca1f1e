_base_ = ['../_base_/semantic_slices.py']
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(180, 240), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=24, contrast_range=(0.7, 1.3)),
    dict(type='mmcert.AddGaussianNoise', sigma=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(
    perturbation=dict(
        type='mmcert.SlicedTransformation',
        transformation=dict(type='scaling'),
        low=0.99,
        high=1.01,
        slices=28,
        sigma=0.5,
    ),
)
