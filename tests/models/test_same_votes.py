"""The same weights give the same votes with and without OpenMMLab."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmcert
from mmcert.engine import SmoothingConfig
from mmcert.integrations import Preprocessing
from mmcert.models import SmoothedSegmentor
from tests.openmmlab import DEMO

SETTINGS = dict(tau=0.6, n0=5, n=60, alpha=0.01)
CLASSES = [f'class {index}' for index in range(6)]


class Plain(torch.nn.Module):
    """An mmsegmentation model as others write theirs: an image in, scores out."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, images):
        return self.base.decode_head(self.base.backbone(images))


@pytest.fixture(scope='module')
def base():
    model = Config.fromfile(DEMO).model
    model.backbone.base_channels = 4
    model.decode_head.update(in_channels=4, channels=4, num_classes=len(CLASSES))
    model.data_preprocessor.pop('size', None)
    torch.manual_seed(0)
    return MODELS.build(model).eval()


def test_votes_are_those_of_the_openmmlab_route(base):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    hook = SmoothedSegmentor(
        base, SmoothingConfig.from_cfg({'sigma': 0.25, **SETTINGS}).plan(CLASSES)
    )
    raw = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).contiguous()
    meta = dict(ori_shape=(32, 48), img_shape=(32, 48), img_path='street.png')
    expected = hook.certify(raw, SegDataSample(metainfo=meta))
    preprocessor = base.data_preprocessor
    preprocessing = Preprocessing(
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        pixel_range=255,
    )
    smoothed = mmcert.smooth(Plain(base), preprocessing=preprocessing, sigma=0.25, **SETTINGS)
    found = smoothed.certify(image, name='street')
    for key in ('name', 'digest'):
        assert found.record.meta[key] == expected.record.meta[key]
    assert (found.votes.guess == expected.votes.guess).all()
    assert (found.votes.hits == expected.votes.hits).all()
    assert (found.record.margin == expected.record.margin).all()
    assert (found.maps['cert'] == expected.maps['cert']).all()
    assert 0 < found.certificate.certified.mean() < 1
