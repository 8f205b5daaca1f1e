# Starts from the surrogate of defocus blur, whose decoder has learned to see through the noise.
_base_ = ['./surrogate.py']
load_from = 'work_dirs/surrogates/defocus-blur_camvid-180x240/iter_900.pth'
# Some images are moved much farther than others: the penalty has to reach those as well.
model = dict(weight=0.2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=30, by_epoch=False),
    dict(type='MultiStepLR', milestones=[250, 350], gamma=0.3, by_epoch=False),
]
train_cfg = dict(max_iters=400, val_interval=400)
