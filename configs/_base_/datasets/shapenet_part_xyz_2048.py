# ShapeNetPart without normals.
_base_ = ['./shapenet_part_2048.py']
load = dict(type='mmcert.LoadShape', use_normals=False)
shape_transform = [load, *_base_.shape_transform[1:]]
train_pipeline = [*shape_transform, *_base_.pack_transform]
test_pipeline = [load, *_base_.test_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
