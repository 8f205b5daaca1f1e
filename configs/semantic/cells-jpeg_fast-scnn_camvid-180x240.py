_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='jpeg', values=[80, 60, 40, 20]))
