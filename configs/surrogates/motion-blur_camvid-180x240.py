_base_ = ['../_base_/surrogate_finetuned.py']
model = dict(
    surrogate=dict(transformation='motion_blur', low=[0, -90], high=[6, 90]),
    attack=dict(values=[[length, angle] for length in (2, 4) for angle in (-45, 0, 45, 90)]),
)
