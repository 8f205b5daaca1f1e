_base_ = [
    '../_base_/models/fast_scnn_camvid.py',
    '../_base_/datasets/camvid_360x480_noise_s0.25.py',
    '../_base_/schedules/adamw_3k.py',
    '../_base_/default_runtime.py',
]
