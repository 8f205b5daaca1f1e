_base_ = [
    './fcn-hr48_noise-s0.25-80k_pascal-context-59-480x480.py',
    '../_base_/smoothing/segcertify.py',
]
# Whole images at their own size, where mmsegmentation resizes them before the model and slides.
model = dict(test_cfg=dict(_delete_=True, mode='whole'))
# 100 of the 5,105 validation images, evenly spaced.
test_dataloader = dict(
    dataset=dict(
        indices=[51 * k for k in range(100)],
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ],
    )
)
smoothing = dict(scales=(1.0,))
