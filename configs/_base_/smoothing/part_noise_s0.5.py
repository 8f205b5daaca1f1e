# Noise on the coordinates of every training shape, and the same noise in the certificate.
_base_ = ['./part_segmentation.py']
noise = dict(type='RandomJitterPoints', jitter_std=[0.5, 0.5, 0.5], clip_range=None)
smoothing = dict(sigma=0.5)
