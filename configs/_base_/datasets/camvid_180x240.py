# CamVid at half its size, which benchmarks/semantic.py makes: a real data set that a CPU can study.
_base_ = ['./camvid_360x480.py']
data_root = 'data/camvid_180x240'
pre_transform = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(180, 240), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=24, contrast_range=(0.7, 1.3)),
]
train_pipeline = [*pre_transform, dict(type='PackSegInputs')]
small = dict(data_root=data_root, img_suffix='.png')
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline, **small))
val_dataloader = dict(dataset=small)
test_dataloader = dict(dataset=small)
