# The camera pitches by 0.5 degrees to either side, or by half of that: shifts of what the vanilla
# model sees, without draws. What lies between is not covered: no range of shifts can be certified.
_base_ = ['../semantic/vanilla-1.2k_fast-scnn_camvid-180x240.py']
smoothing = dict(
    _delete_=True,
    perturbation=dict(
        type='mmcert.Enumeration',
        transformation='translation',
        values=[[0, -1.81], [0, -0.907], [0, 0.907], [0, 1.81]],
    ),
)
