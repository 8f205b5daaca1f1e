# Certified rotation about any axis, as an angle; the normals turn with the shape.
_base_ = ['./pointnet2-ssg-light_clean-20e_part-shapes-normals-1024.py']
rotation = dict(type='mmcert.Rotation3D', sigma=0.25, normals=True)
train_pipeline = [
    *_base_.shape_transform,
    dict(type='mmcert.PerturbPoints', perturbation=rotation),
    *_base_.pack_transform,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
smoothing = dict(
    perturbation=rotation,
    tau=0.75,
    n0=100,
    n=1000,
    alpha=1e-3,
    procedure='holm',
    selection='holdout',
    batch_size=16,
    seed=0,
)
