_base_ = ['../_base_/surrogate.py', '../_base_/attack_sets/defocus_blur.py']
model = dict(surrogate=_base_.surrogate, attack=_base_.attack)
