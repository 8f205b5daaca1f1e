_base_ = ['../_base_/surrogate_finetuned.py', '../_base_/attack_sets/zoom_blur.py']
model = dict(surrogate=_base_.surrogate, attack=_base_.attack)
