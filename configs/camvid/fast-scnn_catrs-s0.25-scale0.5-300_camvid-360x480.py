_base_ = [
    '../_base_/recipes/catrs.py',
    '../_base_/models/fast_scnn_camvid.py',
    '../_base_/datasets/camvid_360x480_whole.py',
    '../_base_/schedules/adamw_finetune_300.py',
    '../_base_/default_runtime.py',
]
custom_hooks = [dict(_base_.custom_hooks[0], scale=0.5)]
train_dataloader = dict(batch_size=4)
model = dict(data_preprocessor=dict(size=(360, 480)))
load_from = 'work_dirs/fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth'
