_base_ = [
    './fcn-hr48_noise-s0.25-160k_cityscapes-512x1024.py',
    '../_base_/smoothing/segcertify.py',
]
# 100 of the 500 validation images, evenly spaced.
test_dataloader = dict(
    dataset=dict(
        indices=[5 * k for k in range(100)],
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
)
smoothing = dict(scales=(1.0,))
