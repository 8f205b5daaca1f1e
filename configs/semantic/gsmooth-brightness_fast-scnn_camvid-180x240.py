_base_ = ['../_base_/semantic_finetuned.py']
perturbation = dict(
    type='mmcert.SurrogateTransform',
    surrogate='work_dirs/surrogates/brightness_camvid-180x240/surrogate.pth',
    sigma1=0.1,
    sigma2=0.75,
)
# Half of the images are really transformed first; all then pass the surrogate, under its noise.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(180, 240), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', brightness_delta=24, contrast_range=(0.7, 1.3)),
    dict(
        type='mmcert.SemanticTransform',
        transformation='brightness',
        values=[-0.1, -0.05, 0.05, 0.1],
        prob=0.5,
    ),
    dict(type='mmcert.PerturbImage', perturbation=perturbation),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=dict(attack=dict(values=[-0.1, -0.05, 0.05, 0.1]), **perturbation))
