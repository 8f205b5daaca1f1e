# Starts from the base model of defocus blur, which knows images through a surrogate's noise.
_base_ = ['./gsmooth.py']
load_from = 'work_dirs/gsmooth-defocus-blur_fast-scnn_camvid-180x240/iter_600.pth'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=400, by_epoch=False),
]
train_cfg = dict(max_iters=400, val_interval=400)
train_dataloader = dict(batch_size=4)
