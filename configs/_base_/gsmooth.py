# Certified through a surrogate: a config adds its file, what it imitates and the attack set.
_base_ = ['./semantic.py']
perturbation = dict(type='mmcert.SurrogateTransform', sigma1=0.1, sigma2=0.75)
# Half of the images are really transformed first; all then pass the surrogate, under its noise.
train_pipeline = [
    *_base_.pre_transform,
    dict(type='mmcert.SemanticTransform', prob=0.5),
    dict(type='mmcert.PerturbImage', perturbation=perturbation),
    dict(type='PackSegInputs'),
]
smoothing = dict(perturbation=perturbation)
