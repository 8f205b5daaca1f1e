# The same as a shift of brightness, by up to 0.0508: tau = 0.61 buys 0.055.
_base_ = ['../semantic/direct-brightness-contrast_fast-scnn_camvid-180x240.py']
smoothing = dict(tau=0.61, perturbation=dict(contrast_range=(1, 1)))
