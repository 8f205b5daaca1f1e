_base_ = [
    './hrnet18_noise-s0.25-3k_camvid-360x480.py',
    '../_base_/smoothing/segcertify.py',
]
# All 233 test images.
smoothing = dict(batch_size='auto')
