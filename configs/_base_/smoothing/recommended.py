# What docs/statistics.md recommends from measurement: the same promise as SegCertify's, more of it
# from the same draws.
_base_ = ['./segcertify.py']
smoothing = dict(procedure='ordered_holm', selection='auto')
