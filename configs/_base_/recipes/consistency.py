# Consistency regularisation (Jeong, Shin, NeurIPS 2020).
custom_hooks = [
    dict(
        type='mmcert.SmoothTraining',
        sigma=0.25,
        copies=2,
        objectives=[dict(type='mmcert.Consistency', lbd=10, eta=0.5)],
    )
]
