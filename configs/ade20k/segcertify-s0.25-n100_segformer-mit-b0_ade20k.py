_base_ = [
    './segformer-mit-b0_noise-s0.25-160k_ade20k-512x512.py',
    '../_base_/smoothing/segcertify.py',
]
# 100 of the 2,000 validation images, evenly spaced, at their own size.
test_dataloader = dict(
    dataset=dict(
        indices=[20 * k for k in range(100)],
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ],
    )
)
