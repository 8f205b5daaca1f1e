# Certified directly, without a surrogate: tau = 0.9 buys every cyclic shift up to 10.2 pixels.
_base_ = ['../_base_/semantic_direct.py']
perturbation = dict(type='mmcert.CyclicTranslation', sigma=8.0)
smoothing = dict(perturbation=perturbation)
