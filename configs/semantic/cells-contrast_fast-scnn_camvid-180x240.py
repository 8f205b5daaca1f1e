_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='contrast', low=-0.2, high=0.2))
