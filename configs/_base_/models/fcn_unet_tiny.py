# A UNet (Ronneberger, Fischer, Brox 2015) small enough to train in a minute or two on a CPU: its
# finest stage works at half the image's size.
norm_cfg = dict(type='BN', requires_grad=True)
# Clean and noisy training images: one in five stays clean.
data_preprocessor = dict(
    type='mmcert.NoisySegDataPreProcessor',
    sigma=0.25,
    prob=0.8,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(128, 192),
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='UNet',
        in_channels=3,
        base_channels=24,
        num_stages=4,
        strides=(2, 1, 1, 1),
        enc_num_convs=(1, 1, 1, 1),
        dec_num_convs=(1, 1, 1),
        downsamples=(True, True, True),
        enc_dilations=(1, 1, 1, 1),
        dec_dilations=(1, 1, 1),
        norm_cfg=norm_cfg,
        upsample_cfg=dict(type='InterpConv'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=24,
        in_index=3,
        channels=24,
        num_convs=1,
        concat_input=False,
        num_classes=8,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=[
            dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_name='loss_ce'),
            dict(type='DiceLoss', use_sigmoid=False, loss_name='loss_dice'),
        ],
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
