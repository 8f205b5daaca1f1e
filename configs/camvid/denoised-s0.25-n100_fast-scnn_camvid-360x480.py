# The Fast-SCNN that never saw noise, certified behind a denoiser.
_base_ = [
    './fast-scnn_clean-1.5k_camvid-360x480.py',
    '../_base_/smoothing/segcertify.py',
]
# 50 of the 233 test images, evenly spaced.
test_dataloader = dict(dataset=dict(indices=[k * 233 // 50 for k in range(50)]))
smoothing = dict(
    denoiser=dict(
        type='mmcert.UNetDenoiser',
        checkpoint='work_dirs/denoisers/unet_stability-s0.25_camvid-360x480/denoiser.pth',
    ),
    scales=0.5,
    draw_every=10,
)
