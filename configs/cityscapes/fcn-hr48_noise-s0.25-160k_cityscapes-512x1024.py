_base_ = ['mmseg::hrnet/fcn_hr48_4xb2-160k_cityscapes-512x1024.py']
# The noise comes last, as in SegCertify's training: sigma is that of the image that the model gets.
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(512, 1024), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='mmcert.AddGaussianNoise', sigma=0.25),
            dict(type='PackSegInputs'),
        ]
    )
)
