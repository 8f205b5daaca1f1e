# The mount vibrates up and down by up to 0.1 degrees at 50 Hz, 1/100 s.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='motion_blur', low=[0, 90], high=[0.725, 90]))
