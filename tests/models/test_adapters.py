"""What every adapter promises, whatever sort of input it brings to a model."""

import json
import os

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample

from mmcert.certifier import Certifier
from mmcert.certify import CertifySettings
from mmcert.fields import certified_maps
from mmcert.models.image_adapter import ImageAdapter
from mmcert.models.precision import PrecisionSettings
from mmcert.models.smoothed_segmentor import SmoothingPlan
from mmcert.perturbations import CoordinateNoise, GaussianNoise
from mmcert.sampling import LogitMaps, SamplingSettings, input_digest
from mmcert.sampling.label_decoding import decode_labels
from tests.openmmlab import BrightnessSegmentor


def an_image():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (1, 12, 16), generator=generator, dtype=torch.uint8)
    sample = SegDataSample(metainfo={'ori_shape': (12, 16), 'img_path': 'data/a.png'})
    sample.gt_sem_seg = PixelData(data=(raw > 127).long())
    data = {'inputs': [raw], 'data_samples': [sample]}
    return ImageAdapter(), BrightnessSegmentor().eval(), data, GaussianNoise(0.25)


def a_cloud():
    pytest.importorskip('mmdet3d')
    from mmcert.models.cloud_adapter import CloudAdapter
    from tests.engine.test_clouds import Det3DDataSample, segmentor

    raw = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    sample = Det3DDataSample(metainfo={'lidar_path': 'data/a.bin'})
    sample.eval_ann_info = {'pts_semantic_mask': (raw[:, 0] > 0).long().numpy()}
    data = {'inputs': {'points': [raw]}, 'data_samples': [sample]}
    return CloudAdapter(), segmentor(raw).base, data, CoordinateNoise(0.25)


@pytest.fixture(params=[(an_image, 'mmseg'), (a_cloud, 'mmdet3d')], ids=['image', 'cloud'])
def kit(request):
    build, scope = request.param
    with DefaultScope.overwrite_default_scope(scope):
        yield build()


@pytest.fixture
def adapter(kit):
    return kit[0]


@pytest.fixture
def given(kit):
    """Adapter, base model, raw input and sample."""
    adapter, base, data, _ = kit
    ((raw, sample),) = adapter.inputs(data)
    return adapter, base, raw, sample


def labels_of(output):
    return decode_labels(output) if isinstance(output, LogitMaps) else output


def test_descriptions_are_json_and_name_what_is_certified(adapter):
    assert json.loads(json.dumps(adapter.spec())) == adapter.spec()
    described = adapter.to_dict()
    assert json.loads(json.dumps(described)) == described
    assert {'certified_space', 'components_are'} <= described.keys()
    assert adapter.word and adapter.component and not adapter.certifies_grid_points


def test_the_clean_input_is_what_the_perturbation_takes(kit, given):
    adapter, _, raw, sample = given
    before = raw.clone()
    clean = adapter.clean_input(raw)
    assert clean.is_floating_point() and adapter.domain == kit[3].domain
    kit[3].check(clean)
    adapter.check(raw, sample)
    assert torch.equal(raw, before)


def test_names_say_source_and_content(given):
    adapter, _, raw, sample = given
    digest = input_digest(raw)
    name = adapter.name(sample, digest)
    assert name.startswith('a-') and os.sep not in name
    assert name != adapter.name(sample, input_digest(raw + 1))


def test_an_input_has_the_same_labels_in_any_batch(kit, given):
    adapter, base, raw, sample = given
    segment = adapter.segmentor(base, raw, sample, PrecisionSettings())
    clean = adapter.clean_input(raw)
    noisy = [kit[3].sample(clean, torch.Generator().manual_seed(i)) for i in range(4)]
    with torch.no_grad():
        together = labels_of(segment(noisy))
        alone = torch.cat([labels_of(segment([one])) for one in noisy])
        labels, margin = segment.with_margin(clean)
    assert torch.equal(together.long(), alone.long())
    assert tuple(labels.shape) == tuple(margin.shape) == adapter.shape(raw, sample)
    assert margin.dtype == torch.uint8 and not labels.is_floating_point()
    assert np.array_equal(labels.numpy(), adapter.label(sample)), 'the models know the truth'
    assert json.dumps(segment.to_dict()) and segment.grid is None


def test_maps_are_attached_so_that_they_are_found_again(kit, given):
    adapter, base, raw, sample = given
    sampling = SamplingSettings(n0=4, n=60, num_classes=2)
    settings = CertifySettings(0.6, 0.01)
    plan = SmoothingPlan(kit[3], settings, sampling, adapter=adapter)
    result = Certifier(plan).certify(
        plan.segmentor(base, raw, sample), adapter.clean_input(raw), label=adapter.label(sample)
    )
    adapter.attach(sample, result.maps)
    assert isinstance(sample, BaseDataElement)
    found = certified_maps(sample.to_dict())
    assert found.keys() == result.maps.keys() == {'label', 'pred', 'cert', 'base', 'radius'}
    for name, values in result.maps.items():
        assert np.array_equal(found[name], values), name
    assert result.to_dict()['input']['input_type'] == adapter.word
