_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='contrast', low=-0.5, high=0.5),
    attack=dict(range=[-0.2, 0.2], mode='lipschitz'),
)
