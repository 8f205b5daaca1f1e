_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='brightness', low=-0.2, high=0.2),
    attack=dict(range=[-0.1, 0.1], mode='lipschitz'),
)
