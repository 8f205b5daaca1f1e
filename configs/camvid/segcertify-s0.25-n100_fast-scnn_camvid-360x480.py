_base_ = ['./fast-scnn_noise-s0.25-3k_camvid-360x480.py']
# 50 of the 233 test images, evenly spaced.
test_dataloader = dict(dataset=dict(indices=[k * 233 // 50 for k in range(50)]))
smoothing = dict(
    sigma=0.25,
    tau=0.75,
    n0=10,
    n=100,
    alpha=1e-3,
    procedure='holm',
    batch_size=10,
    seed=0,
    draw_every=10,
)
