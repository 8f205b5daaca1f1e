# Starts from the vanilla model; the radius is the law's, at one threshold for all images.
_base_ = ['./semantic.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=400, by_epoch=False),
]
train_cfg = dict(max_iters=400, val_interval=400)
train_dataloader = dict(batch_size=4)
smoothing = dict(tau=0.9)
