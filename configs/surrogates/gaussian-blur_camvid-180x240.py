_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='gaussian_blur', low=0, high=6),
    attack=dict(range=[0, 4], mode='lipschitz'),
)
