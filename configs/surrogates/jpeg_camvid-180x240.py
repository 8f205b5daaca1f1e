_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='jpeg', low=10, high=100),
    attack=dict(values=[80, 60, 40, 20]),
)
