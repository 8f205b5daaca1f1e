_base_ = ['../_base_/semantic_slices.py']
smoothing = dict(perturbation=dict(transformation=dict(type='rotation'), low=-0.5, high=0.5))
