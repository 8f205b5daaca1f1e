# What the denoisers of configs/denoisers share: the small U-Net, sigma 0.25, and CamVid.
_base_ = ['./datasets/camvid_360x480.py', './default_runtime.py']
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=test_pipeline, indices=list(range(0, 101, 5))),
)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(
    type='mmcert.DenoiserModel',
    denoiser=dict(type='mmcert.UNetDenoiser', sigma=0.25),
    # Half the time of a CPU step; the denoiser itself stays in single precision.
    precision='bf16',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[0, 0, 0], std=[255, 255, 255], size=(360, 480)
    ),
)
val_evaluator = dict(_delete_=True, type='mmcert.DenoiserMetric')
test_evaluator = val_evaluator
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0),
    clip_grad=dict(max_norm=1.0),
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=250, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
