# One base model for all attack sets of cells-*: transformed images, then noise on means of 8 x 8
# pixels. It starts from the vanilla model.
_base_ = ['../_base_/semantic_direct.py']
noise = dict(type='mmcert.PooledNoise', factor=8, sigma=0.1)
random = dict(type='mmcert.SemanticTransform')
train_pipeline = [
    *_base_.pre_transform,
    dict(
        type='RandomChoice',
        transforms=[
            [],
            [dict(random, transformation='defocus_blur', range=[0, 3])],
            [dict(random, transformation='zoom_blur', range=[1, 1.06])],
            [dict(random, transformation='rotational_blur', range=[0, 3])],
            [dict(random, transformation='gaussian_blur', range=[0, 4])],
            [dict(random, transformation='motion_blur', range=[[0, 4], [-90, 90]])],
            [dict(random, transformation='pixelate', values=[2, 3, 4])],
            [dict(random, transformation='jpeg', range=[20, 80])],
        ],
    ),
    dict(type='mmcert.PerturbImage', perturbation=noise),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=1200, by_epoch=False),
]
train_cfg = dict(max_iters=1200, val_interval=1200)
smoothing = dict(perturbation=noise)
