# Like the config for 180 x 240.
_base_ = ['./noise-pooled8-s0.1_fast-scnn_camvid-360x480.py']
smoothing = dict(
    _delete_=True,
    perturbation=dict(
        type='mmcert.TransformationCells',
        noise=_base_.noise,
        transformation='defocus_blur',
        low=0,
        high=3,
    ),
    n0=50,
    n=500,
    alpha=1e-3,
    procedure='ordered_holm',
    selection='holdout',
)
