# Certified directly, without a surrogate: tau = 0.9 buys contrasts of 0.8 to 1.25, shifts to 0.12.
_base_ = ['../_base_/semantic_direct.py']
perturbation = dict(
    type='mmcert.BrightnessContrast', sigma_k=0.35, sigma_b=0.2, contrast_range=(0.8, 1.25)
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(180, 240), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=24, contrast_range=(0.7, 1.3)),
    dict(type='mmcert.PerturbImage', perturbation=perturbation, prob=0.8),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=perturbation)
