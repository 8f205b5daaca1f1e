_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='pixelate', values=[2, 3, 4]))
