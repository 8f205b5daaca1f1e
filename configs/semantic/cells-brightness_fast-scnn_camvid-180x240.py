_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='brightness', low=-0.1, high=0.1))
