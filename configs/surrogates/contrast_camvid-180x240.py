_base_ = ['../_base_/surrogate_finetuned.py', '../_base_/attack_sets/contrast.py']
model = dict(surrogate=_base_.surrogate, attack=dict(mode='lipschitz', **_base_.attack))
