# Certified for every parameter of an interval: draws around the transformed images of many cells
# count together. The noise is on means of 8 x 8 pixels, which most transformations hardly move. The
# base model is that of configs/semantic/noise-pooled8-s0.1, whatever the attack set.
_base_ = ['../semantic/noise-pooled8-s0.1_fast-scnn_camvid-180x240.py']
smoothing = dict(
    _delete_=True,
    perturbation=dict(type='mmcert.TransformationCells', noise=_base_.noise),
    n0=50,
    n=500,
    alpha=1e-3,
    procedure='ordered_holm',
    selection='holdout',
)
