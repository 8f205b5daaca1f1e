# The lens zooms from 6 mm to anything up to 6.3 mm.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=6720, perturbation=dict(transformation='scaling', low=1, high=1.05))
