# Certified rotation about any axis, as an angle; the normals turn with the shape.
_base_ = ['./pointnet2-ssg-light_clean-20e_part-shapes-normals-1024.py']
rotation = dict(type='mmcert.Rotation3D', sigma=0.25, normals=True)
pack = dict(
    type='Pack3DDetInputs',
    keys=['points', 'pts_semantic_mask'],
    meta_keys=['lidar_path', 'sample_idx', 'shape_id', 'category'],
)
train_pipeline = [
    dict(type='mmcert.LoadShape', use_normals=True),
    dict(type='mmcert.CentreAndScale'),
    dict(type='mmcert.SampleShapePoints', num_points=1024),
    dict(type='mmcert.PerturbPoints', perturbation=rotation),
    dict(type='mmcert.AppendCategory'),
    pack,
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
