_base_ = ['../_base_/surrogate.py']
model = dict(
    surrogate=dict(transformation='defocus_blur', low=0, high=3),
    attack=dict(values=[1, 2, 3]),
)
