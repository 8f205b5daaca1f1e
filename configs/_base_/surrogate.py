# What the surrogates of configs/surrogates share: GSmooth's optimiser, and CamVid at half its size.
# Attack sets are what each surrogate learns to certify; other sets within its range are legal.
_base_ = ['./datasets/camvid_180x240.py', './default_runtime.py']
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=test_pipeline, indices=list(range(0, 101, 5))),
)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(
    type='mmcert.SurrogateModel',
    surrogate=dict(latent_channels=48, stride=8, width=64),
    sigma1=0.1,
    sigma2=0.5,
    target=1.7,
    weight=0.05,
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[0, 0, 0], std=[255, 255, 255], size=(180, 240)
    ),
)
val_evaluator = dict(_delete_=True, type='mmcert.SurrogateMetric')
test_evaluator = val_evaluator
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-3),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='MultiStepLR', milestones=[600, 800], gamma=0.3, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=900, val_interval=900)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=300, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
