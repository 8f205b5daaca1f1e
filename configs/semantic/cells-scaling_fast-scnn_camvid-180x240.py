_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=3290, perturbation=dict(transformation='scaling', low=0.99, high=1.01))
