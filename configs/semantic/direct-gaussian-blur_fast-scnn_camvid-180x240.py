# Certified directly, without a surrogate: tau = 0.9 buys every variance up to 4 pixels^2.
_base_ = ['../_base_/semantic_direct.py']
perturbation = dict(type='mmcert.GaussianBlur', law=dict(type='Exponential', mean=2.4853))
train_pipeline = [
    *_base_.pre_transform,
    dict(type='mmcert.PerturbImage', perturbation=perturbation, prob=0.8),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=perturbation)
