# Consistency with less weight: closer to plain noise, with fewer errors and more abstentions.
_base_ = ['./fast-scnn_consistency-s0.25-scale0.5-300_camvid-360x480.py']
consistency = dict(type='mmcert.Consistency', lbd=4, eta=0.5)
custom_hooks = [dict(_base_.custom_hooks[0], objectives=[consistency])]
