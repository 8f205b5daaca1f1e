_base_ = [
    '../_base_/models/fcn_unet_tiny.py',
    '../_base_/datasets/street_scenes_128x192.py',
    '../_base_/schedules/adamw_400.py',
    '../_base_/smoothing/segcertify.py',
    '../_base_/default_runtime.py',
]
smoothing = dict(draw_every=1)
