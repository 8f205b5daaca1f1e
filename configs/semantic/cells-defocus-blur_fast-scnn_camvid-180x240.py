_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='defocus_blur', low=0, high=3))
