_base_ = ['mmseg::hrnet/fcn_hr48_4xb4-80k_pascal-context-59-480x480.py']
# The noise comes last, as in SegCertify's training: sigma is that of the image that the model gets.
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomResize', scale=(520, 520), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(480, 480), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='mmcert.AddGaussianNoise', sigma=0.25),
            dict(type='PackSegInputs'),
        ]
    )
)
