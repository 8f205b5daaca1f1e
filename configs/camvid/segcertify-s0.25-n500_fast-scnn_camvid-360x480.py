_base_ = ['./segcertify-s0.25-n100_fast-scnn_camvid-360x480.py']
smoothing = dict(tau=0.95, n=500)
