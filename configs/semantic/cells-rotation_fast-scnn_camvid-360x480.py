# Like the config for 180 x 240.
_base_ = ['./noise-pooled8-s0.1_fast-scnn_camvid-360x480.py']
smoothing = dict(
    _delete_=True,
    perturbation=dict(
        type='mmcert.TransformationCells',
        noise=_base_.noise,
        transformation='rotation',
        low=-0.5,
        high=0.5,
    ),
    n0=50,
    n=3290,
    alpha=1e-3,
    procedure='ordered_holm',
    selection='holdout',
)
