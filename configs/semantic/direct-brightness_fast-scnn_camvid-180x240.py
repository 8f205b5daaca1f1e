# The model of direct-brightness-contrast: tau = 0.692 buys shifts up to 0.1, at contrast 1.
_base_ = ['./direct-brightness-contrast_fast-scnn_camvid-180x240.py']
smoothing = dict(tau=0.692, perturbation=dict(contrast_range=(1, 1)))
