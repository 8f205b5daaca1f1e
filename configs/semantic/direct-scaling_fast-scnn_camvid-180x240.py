_base_ = ['../_base_/semantic_slices.py']
smoothing = dict(perturbation=dict(transformation=dict(type='scaling'), low=0.99, high=1.01))
