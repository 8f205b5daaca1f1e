# The same denoiser, trained on through the frozen Fast-SCNN that never saw noise.
_base_ = ['../_base_/denoiser.py']
load_from = 'work_dirs/denoisers/unet_mse-s0.25_camvid-360x480/iter_500.pth'
model = dict(
    segmentor=dict(
        config='configs/camvid/fast-scnn_clean-1.5k_camvid-360x480.py',
        checkpoint='work_dirs/fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth',
        # As in the certificate: it averages noise away, and a step is cheaper.
        scale=0.5,
    ),
    mse=10.0,
    cross_entropy=1.0,
    logits=0.05,
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=50, end=600, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=600, val_interval=600)
