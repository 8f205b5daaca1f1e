# Certified directly, without a surrogate: tau = 0.9 buys contrasts of 0.8 to 1.25, shifts to 0.22.
_base_ = ['../_base_/semantic_direct.py']
perturbation = dict(
    type='mmcert.BrightnessContrast', sigma_k=0.35, sigma_b=0.2, contrast_range=(0.8, 1.25)
)
train_pipeline = [
    *_base_.pre_transform,
    dict(type='mmcert.PerturbImage', perturbation=perturbation, prob=0.8),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=perturbation)
