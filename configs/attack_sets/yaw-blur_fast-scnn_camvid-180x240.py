# The camera yaws at up to 30 degrees per second, 1/60 s.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='motion_blur', low=[0, 0], high=[1.81, 0]))
