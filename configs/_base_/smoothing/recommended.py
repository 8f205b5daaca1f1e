# What docs/results/procedures.md recommends: the same promise as SegCertify, more of it from the
# same draws.
_base_ = ['./segcertify.py']
smoothing = dict(procedure='ordered_holm', selection='auto')
