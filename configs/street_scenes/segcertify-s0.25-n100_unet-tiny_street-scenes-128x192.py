_base_ = [
    '../_base_/models/fcn_unet_tiny.py',
    '../_base_/datasets/street_scenes_128x192.py',
    '../_base_/schedules/adamw_400.py',
    '../_base_/default_runtime.py',
]
smoothing = dict(
    sigma=0.25,
    tau=0.75,
    n0=10,
    n=100,
    alpha=1e-3,
    procedure='holm',
    batch_size=10,
    seed=0,
    draw_every=1,
)
