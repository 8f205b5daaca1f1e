# What docs/statistics.md recommends from measurement: the same promise as SegCertify's, more of it
# from the same draws.
smoothing = dict(
    sigma=0.25,
    tau=0.75,
    n0=10,
    n=100,
    alpha=1e-3,
    procedure='ordered_holm',
    selection='same_draws',
    batch_size=10,
    seed=0,
)
