# Exposure is off by up to 1/3 stop, to either side. tau = 0.65 is enough for these contrasts, and
# leaves room for a shift of brightness by 0.04 as well.
_base_ = ['../semantic/direct-brightness-contrast_fast-scnn_camvid-180x240.py']
smoothing = dict(tau=0.65, perturbation=dict(contrast_range=(0.9, 1.11)))
