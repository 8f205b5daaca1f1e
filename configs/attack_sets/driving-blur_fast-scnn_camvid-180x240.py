# The camera drives at up to 30 m/s towards what is 10 m away, 1/60 s.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=3360, perturbation=dict(transformation='zoom_blur', low=1, high=1.05))
