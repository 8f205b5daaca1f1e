_base_ = ['./fast-scnn_noise-s0.25-scale0.5-300_camvid-360x480.py']
# The teacher is the clean model that training starts from, at the scale of the student.
teacher = dict(
    config='configs/camvid/fast-scnn_clean-1.5k_camvid-360x480.py',
    checkpoint=_base_.load_from,
    scale=0.5,
)
distillation = dict(type='mmcert.Distillation', teacher=teacher)
custom_hooks = [dict(_base_.custom_hooks[0], objectives=[distillation])]
