_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='rotational_blur', low=0, high=3),
    attack=dict(values=[1, 2, 3]),
)
