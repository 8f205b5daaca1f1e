"""mmsegmentation's Mask2Former, certified through its label maps; instances are not certified."""

from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmcert.engine import SmoothingConfig
from mmcert.models import SmoothedSegmentor

CLASSES = [f'class {index}' for index in range(5)]


@pytest.fixture(scope='module')
def base():
    """A small one of random weights, whose queries see different classes and places."""
    pytest.importorskip('mmdet', reason="mmsegmentation's Mask2Former needs mmdet")
    folder = Path(mmseg.__file__).parent / '.mim/configs/mask2former'
    cfg = Config.fromfile(folder / 'mask2former_r50_8xb2-160k_ade20k-512x512.py').model
    cfg.data_preprocessor.pop('size', None)
    cfg.backbone.update(depth=18, init_cfg=None, norm_cfg=dict(type='BN'))
    head = cfg.decode_head
    small = dict(feat_channels=32, out_channels=32)
    head.update(in_channels=[64, 128, 256, 512], num_classes=5, num_queries=10, **small)
    head.loss_cls.class_weight = [1.0] * 5 + [0.1]
    head.pixel_decoder.encoder.num_layers = 1
    layer = head.pixel_decoder.encoder.layer_cfg
    layer.self_attn_cfg.embed_dims = layer.ffn_cfg.embed_dims = 32
    layer.ffn_cfg.feedforward_channels = 32
    head.pixel_decoder.positional_encoding.num_feats = head.positional_encoding.num_feats = 16
    head.transformer_decoder.num_layers = 2
    layer = head.transformer_decoder.layer_cfg
    for part in (layer.self_attn_cfg, layer.cross_attn_cfg, layer.ffn_cfg):
        part.embed_dims = 32
    layer.ffn_cfg.feedforward_channels = 32
    torch.manual_seed(0)
    model = MODELS.build(cfg).eval()
    torch.nn.init.normal_(model.decode_head.cls_embed.weight, std=5.0)
    torch.nn.init.normal_(model.decode_head.mask_embed[-1].weight, std=3.0)
    torch.nn.init.normal_(model.decode_head.query_feat.weight, std=3.0)
    return model


@pytest.mark.slow
def test_mask2former_is_certified_through_its_labels(base):
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
    meta = dict(ori_shape=(64, 96), img_shape=(64, 96), img_path='a.png')
    plan = SmoothingConfig.from_cfg(dict(sigma=0.05, tau=0.55, n0=4, n=30, alpha=0.1)).plan(CLASSES)
    raw, sample = torch.from_numpy(image), SegDataSample(metainfo=meta)
    result = SmoothedSegmentor(base, plan).certify(raw, sample)
    data = base.data_preprocessor({'inputs': [raw.float()], 'data_samples': [sample]}, False)
    with torch.no_grad():
        [predicted] = base(**data, mode='predict')
    assert (result.maps['base'] == predicted.pred_sem_seg.data[0].numpy()).all()
    assert len(np.unique(result.maps['base'])) > 1
    assert 0 < result.certificate.certified.mean() <= 1
    assert result.to_dict()['model']['precision']['logits_resized'].startswith('by the model')
