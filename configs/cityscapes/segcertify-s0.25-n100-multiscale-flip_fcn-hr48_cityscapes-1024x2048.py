_base_ = ['./segcertify-s0.25-n100_fcn-hr48_cityscapes-1024x2048.py']
# The scales of mmsegmentation's test-time augmentation, inside the smoothed function.
smoothing = dict(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True, batch_size=1)
