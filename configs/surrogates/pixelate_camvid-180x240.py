_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='pixelate', low=1, high=4),
    attack=dict(values=[2, 3, 4]),
)
