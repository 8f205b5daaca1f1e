_base_ = ['../_base_/semantic.py']
load_from = None
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=200, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=200, end=1200, by_epoch=False),
]
train_cfg = dict(max_iters=1200, val_interval=1200)
smoothing = None
