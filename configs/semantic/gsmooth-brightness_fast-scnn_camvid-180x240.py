_base_ = ['../_base_/gsmooth_finetuned.py', '../_base_/attack_sets/brightness.py']
# Brightness moves the latent along F1, where noise costs little: a larger sigma1 than elsewhere.
perturbation = dict(
    surrogate='work_dirs/surrogates/brightness_camvid-180x240/surrogate.pth', sigma1=0.5
)
train_pipeline = _base_.train_pipeline
train_pipeline[-3].update(transformation='brightness', **_base_.attack)
train_pipeline[-2].perturbation.update(perturbation)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=dict(attack=dict(mode='lipschitz', **_base_.attack), **perturbation))
