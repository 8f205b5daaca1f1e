_base_ = [
    '../_base_/recipes/noise.py',
    '../_base_/models/fast_scnn_camvid.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/schedules/adamw_finetune_300.py',
    '../_base_/default_runtime.py',
]
load_from = 'work_dirs/fast-scnn_clean-1.5k_camvid-360x480/iter_1500.pth'
