_base_ = ['./segcertify-s0.25-n100_fcn-hr48_pascal-context-59.py']
smoothing = dict(scales=(0.5,))
