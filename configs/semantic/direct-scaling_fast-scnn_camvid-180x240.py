_base_ = ['../_base_/semantic_slices.py']
smoothing = dict(
    perturbation=dict(
        type='mmcert.SlicedTransformation',
        transformation=dict(type='scaling'),
        low=0.99,
        high=1.01,
        slices=56,
        sigma=0.5,
    ),
)
