# Images are encoded with gamma from 2.2 to 2.4, in place of 2.2.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=3360, perturbation=dict(transformation='gamma', low=0.917, high=1))
