_base_ = ['../_base_/gsmooth_finetuned.py', '../_base_/attack_sets/contrast.py']
perturbation = dict(surrogate='work_dirs/surrogates/contrast_camvid-180x240/surrogate.pth')
train_pipeline = _base_.train_pipeline
train_pipeline[-3].update(transformation='contrast', **_base_.attack)
train_pipeline[-2].perturbation.update(perturbation)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=dict(attack=dict(mode='lipschitz', **_base_.attack), **perturbation))
