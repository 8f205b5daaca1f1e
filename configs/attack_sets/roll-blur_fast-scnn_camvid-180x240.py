# The camera rolls at up to 60 degrees per second, 1/60 s.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='rotational_blur', low=0, high=0.5))
