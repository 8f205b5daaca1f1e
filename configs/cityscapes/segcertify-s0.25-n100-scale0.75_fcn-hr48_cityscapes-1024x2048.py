_base_ = ['./segcertify-s0.25-n100_fcn-hr48_cityscapes-1024x2048.py']
smoothing = dict(scales=(0.75,))
