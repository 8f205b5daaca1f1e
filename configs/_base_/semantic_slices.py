# Certified by slices: every slice takes n draws of Gaussian noise, and its own selection does not
# count for another.
_base_ = ['./semantic_direct.py']
smoothing = dict(tau=0.5, n0=20, n=400, procedure='holm', selection='holdout')
