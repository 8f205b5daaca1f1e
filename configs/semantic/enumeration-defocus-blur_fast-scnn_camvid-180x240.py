# The vanilla model itself, at every radius of the attack set: no training, no draws, no alpha.
_base_ = [
    './vanilla-1.2k_fast-scnn_camvid-180x240.py',
    '../_base_/attack_sets/defocus_blur.py',
]
smoothing = dict(
    _delete_=True,
    perturbation=dict(
        type='mmcert.Enumeration', transformation='defocus_blur', values=_base_.attack['values']
    ),
)
