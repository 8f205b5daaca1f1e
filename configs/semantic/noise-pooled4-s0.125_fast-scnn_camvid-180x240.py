# Like noise-pooled8-s0.1, with finer blocks: as much noise for each l2 perturbation as s0.5.
_base_ = ['./noise-pooled8-s0.1_fast-scnn_camvid-180x240.py']
noise = dict(factor=4, sigma=0.125)
train_pipeline = _base_.train_pipeline
train_pipeline[-2]['perturbation'].update(noise)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(perturbation=noise)
