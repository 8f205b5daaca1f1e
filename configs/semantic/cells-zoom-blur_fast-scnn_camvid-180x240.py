_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='zoom_blur', low=1, high=1.06))
