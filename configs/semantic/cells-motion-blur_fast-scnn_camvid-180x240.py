_base_ = ['../_base_/semantic_cells.py']
values = [[length, angle] for length in (2, 4) for angle in (-45, 0, 45, 90)]
smoothing = dict(perturbation=dict(transformation='motion_blur', values=values))
