# Certified by slices: every slice takes n draws of Gaussian noise, and its own selection does not
# count for another.
_base_ = ['./semantic_direct.py']
train_pipeline = [
    *_base_.pre_transform,
    dict(type='mmcert.AddGaussianNoise', sigma=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(tau=0.5, n0=20, n=400, procedure='holm', selection='holdout')
