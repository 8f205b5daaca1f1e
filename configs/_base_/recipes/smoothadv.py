# SmoothAdv (Salman et al., NeurIPS 2019), with two steps of the attack.
custom_hooks = [
    dict(
        type='mmcert.SmoothTraining',
        sigma=0.25,
        copies=2,
        objectives=[dict(type='mmcert.SmoothAdv', epsilon=0.25, steps=2, warmup=100)],
    )
]
