_base_ = ['../_base_/semantic_slices.py']
smoothing = dict(
    perturbation=dict(
        type='mmcert.SlicedTransformation',
        transformation=dict(type='rotation'),
        low=-0.5,
        high=0.5,
        slices=56,
        sigma=0.5,
    ),
)
