_base_ = ['./adamw_3k.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=200, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=200, end=1500, by_epoch=False),
]
train_cfg = dict(max_iters=1500)
