_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=6690, perturbation=dict(transformation='scaling', low=0.99, high=1.01))
