# The camera rolls by up to 1 degree, to either side.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=6720, perturbation=dict(transformation='rotation', low=-1, high=1))
