# What the base models of configs/semantic share. They start from the vanilla one, trained on clean
# images. The smoothing is for surrogates: `attack` in the configs sets each image's threshold.
_base_ = [
    './models/fast_scnn_camvid.py',
    './datasets/camvid_180x240.py',
    './schedules/adamw_3k.py',
    './default_runtime.py',
]
model = dict(data_preprocessor=dict(size=(180, 240)))
load_from = 'work_dirs/vanilla-1.2k_fast-scnn_camvid-180x240/iter_1200.pth'
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=100, end=600, by_epoch=False),
]
train_cfg = dict(max_iters=600, val_interval=600)
val_dataloader = dict(dataset=dict(indices=list(range(0, 101, 5))))
smoothing = dict(n0=50, n=500, alpha=1e-3, procedure='ordered_holm', selection='same_draws')
