# Like noise-pooled8-s0.1, with noise on every pixel: for cells of the image itself.
_base_ = ['./noise-pooled8-s0.1_fast-scnn_camvid-180x240.py']
train_pipeline = _base_.train_pipeline
train_pipeline[-2]['perturbation'] = dict(type='mmcert.GaussianNoise', sigma=0.5)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=dict(_delete_=True, type='mmcert.GaussianNoise', sigma=0.5))
