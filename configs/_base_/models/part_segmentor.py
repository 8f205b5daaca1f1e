# The parts of ShapeNetPart's 16 categories; other files add backbone and head.
custom_imports = dict(imports=['mmcert.models.part_segmentor'])
model = dict(
    type='mmcert.PartSegmentor',
    category_parts=[
        [0, 1, 2, 3],
        [4, 5],
        [6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
        [16, 17, 18],
        [19, 20, 21],
        [22, 23],
        [24, 25, 26, 27],
        [28, 29],
        [30, 31, 32, 33, 34, 35],
        [36, 37],
        [38, 39, 40],
        [41, 42, 43],
        [44, 45, 46],
        [47, 48, 49],
    ],
    data_preprocessor=dict(type='Det3DDataPreprocessor'),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
