# CAT-RS (Jeong, Kim, Shin, AAAI 2023): confidence needs more copies than two. The batch
# should have fewer images.
custom_hooks = [
    dict(
        type='mmcert.SmoothTraining',
        sigma=0.25,
        copies=4,
        objectives=[dict(type='mmcert.CATRS', lbd=0.5)],
    )
]
