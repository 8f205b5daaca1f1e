# SegCertify as published (Fischer, Baader, Vechev, ICML 2021), at the smaller of its settings.
smoothing = dict(
    sigma=0.25,
    tau=0.75,
    n0=10,
    n=100,
    alpha=1e-3,
    procedure='holm',
    selection='holdout',
    batch_size=10,
    seed=0,
)
