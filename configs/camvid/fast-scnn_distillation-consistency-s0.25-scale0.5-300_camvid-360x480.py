_base_ = ['./fast-scnn_distillation-s0.25-scale0.5-300_camvid-360x480.py']
consistency = dict(type='mmcert.Consistency', lbd=10, eta=0.5)
custom_hooks = [dict(_base_.custom_hooks[0], objectives=[_base_.distillation, consistency])]
