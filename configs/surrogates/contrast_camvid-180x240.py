_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='contrast', low=-0.5, high=0.5),
    attack=dict(values=[-0.2, -0.1, 0.1, 0.2]),
)
