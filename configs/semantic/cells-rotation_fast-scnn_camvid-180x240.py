_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=3290, perturbation=dict(transformation='rotation', low=-0.5, high=0.5))
