# The model of direct-brightness-contrast: tau = 0.793 buys contrasts e^k with k in [-0.2, 0.2], and
# shifts up to 0.11 before them.
_base_ = ['./direct-brightness-contrast_fast-scnn_camvid-180x240.py']
smoothing = dict(tau=0.793, perturbation=dict(contrast_range=(0.8187, 1.2215)))
