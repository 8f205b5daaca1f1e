_base_ = [
    './fast-scnn_noise-s0.25-3k_camvid-360x480.py',
    '../_base_/smoothing/recommended.py',
]
# 50 of the 233 test images, evenly spaced.
test_dataloader = dict(dataset=dict(indices=[k * 233 // 50 for k in range(50)]))
smoothing = dict(n='auto', budget=1000, hierarchy='camvid', draw_every=10)
