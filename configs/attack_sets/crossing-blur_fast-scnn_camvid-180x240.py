# An object 10 m away crosses at up to 10 m/s, 1/100 s.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='motion_blur', low=[0, 0], high=[2.08, 0]))
