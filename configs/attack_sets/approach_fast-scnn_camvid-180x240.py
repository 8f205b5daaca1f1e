# The camera is up to 0.2 m nearer to what was 10 m away.
_base_ = ['../_base_/semantic_cells.py']
smoothing = dict(n=3360, perturbation=dict(transformation='scaling', low=1, high=1.02))
