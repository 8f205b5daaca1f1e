# Part segmentation of SegCertify (Fischer, Baader, Vechev, ICML 2021, table 2). For tau of 0.95 and
# 0.99 take n = 10000. sigma is in units of the unit ball that the shapes are scaled to.
smoothing = dict(
    sigma=0.25,
    tau=0.75,
    n0=100,
    n=1000,
    alpha=1e-3,
    procedure='holm',
    selection='holdout',
    runs=3,
    batch_size=16,
    seed=0,
)
