# Certified by slices of the parameter. Each slice takes n draws of Gaussian noise, and selection
# draws of one do not count for another. Twice the slices halve how far an image moves within one,
# which lowers the threshold, so fewer draws are enough.
_base_ = ['./semantic_direct.py']
train_pipeline = [
    *_base_.pre_transform,
    dict(type='mmcert.AddGaussianNoise', sigma=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(
    perturbation=dict(type='mmcert.SlicedTransformation', slices=56, sigma=0.5),
    tau=0.5,
    n0=20,
    n=120,
    selection='holdout',
)
