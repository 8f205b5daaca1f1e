_base_ = ['../_base_/gsmooth.py', '../_base_/attack_sets/defocus_blur.py']
perturbation = dict(surrogate='work_dirs/surrogates/defocus-blur_camvid-180x240/surrogate.pth')
train_pipeline = _base_.train_pipeline
train_pipeline[-3].update(transformation='defocus_blur', **_base_.attack)
train_pipeline[-2].perturbation.update(perturbation)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=dict(attack=_base_.attack, **perturbation))
