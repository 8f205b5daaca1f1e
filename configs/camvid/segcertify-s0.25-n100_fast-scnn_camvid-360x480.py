_base_ = ['./fast-scnn_noise-s0.25-3k_camvid-360x480.py']
smoothing = dict(
    sigma=0.25, tau=0.75, n0=10, n=100, alpha=1e-3, procedure='holm', batch_size=10, seed=0
)
# SegCertify's tables use the first part of a shuffled test set; here every k-th frame is taken.
