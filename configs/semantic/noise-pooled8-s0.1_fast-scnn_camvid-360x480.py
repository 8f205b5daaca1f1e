# The model of noise-pooled8-s0.1 trained on, on images of the full size.
_base_ = ['./noise-pooled8-s0.1_fast-scnn_camvid-180x240.py']
crop_size = (288, 384)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=(480, 360), ratio_range=(0.8, 1.5))
train_pipeline[3].update(crop_size=crop_size)
large = dict(data_root='data/camvid', img_suffix='.jpg')
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **large))
val_dataloader = dict(dataset=large)
test_dataloader = dict(dataset=large)
model = dict(data_preprocessor=dict(size=crop_size))
load_from = 'work_dirs/noise-pooled8-s0.1_fast-scnn_camvid-180x240/iter_1200.pth'
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=400)
train_cfg = dict(max_iters=400, val_interval=400)
