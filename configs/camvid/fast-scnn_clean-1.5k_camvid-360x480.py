_base_ = [
    '../_base_/models/fast_scnn_camvid.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/schedules/adamw_1.5k.py',
    '../_base_/default_runtime.py',
]
