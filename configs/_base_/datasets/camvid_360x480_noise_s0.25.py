_base_ = ['./camvid_360x480.py']
# One image in five stays clean. The noise acts where the certificate's acts: on the image at its
# loaded size, so before the resize of those images that train the input scale 0.5.
crop = [
    dict(type='RandomCrop', crop_size=(288, 384), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=24, contrast_range=(0.7, 1.3)),
]
noise = dict(type='mmcert.AddGaussianNoise', sigma=0.25, prob=0.8)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoice',
        prob=[0.7, 0.3],
        transforms=[
            [
                dict(
                    type='RandomResize',
                    scale=(480, 360),
                    ratio_range=(0.75, 1.5),
                    keep_ratio=True,
                ),
                *crop,
                noise,
            ],
            [
                noise,
                dict(
                    type='RandomResize',
                    scale=(480, 360),
                    ratio_range=(0.5, 0.6),
                    keep_ratio=True,
                ),
                *crop,
            ],
        ],
    ),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
