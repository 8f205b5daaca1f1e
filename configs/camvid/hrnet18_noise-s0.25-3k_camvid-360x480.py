_base_ = [
    '../_base_/models/hrnet18_camvid.py',
    '../_base_/datasets/camvid_360x480_noise_s0.25.py',
    '../_base_/schedules/adamw_3k.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=16, num_workers=8)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
# Often enough that a run which is stopped loses seconds. Two, as the oldest is deleted before the
# next one is written.
default_hooks = dict(checkpoint=dict(interval=250, max_keep_ckpts=2))
train_cfg = dict(val_interval=3000)
