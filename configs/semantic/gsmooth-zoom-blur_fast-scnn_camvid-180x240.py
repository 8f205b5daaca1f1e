_base_ = ['../_base_/semantic_finetuned.py']
attack = dict(values=[1.02, 1.04, 1.06])
perturbation = dict(
    type='mmcert.SurrogateTransform',
    surrogate='work_dirs/surrogates/zoom-blur_camvid-180x240/surrogate.pth',
    sigma1=0.1,
    sigma2=0.75,
)
# Half of the images are really transformed first; all then pass the surrogate, under its noise.
train_pipeline = [
    *_base_.pre_transform,
    dict(type='mmcert.SemanticTransform', transformation='zoom_blur', prob=0.5, **attack),
    dict(type='mmcert.PerturbImage', perturbation=perturbation),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=dict(attack=attack, **perturbation))
