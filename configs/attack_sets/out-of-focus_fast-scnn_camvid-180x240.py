# The lens is focused anywhere from where the scene is, 20 m away, to 0.3 m.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(perturbation=dict(transformation='defocus_blur', low=0, high=1.04))
