"""An ensemble is the mean of its members' logits, plain and smoothed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmcert.certifier import weights_digest
from mmcert.models import ImageSegmentor, PrecisionSettings, SegmentorEnsemble
from mmcert.sampling import LogitMaps


def config(seed=0, stride=2, mean=127.0, **options):
    """A small random segmentor of four classes with a head at 1 / (4 * stride) of the size."""
    cfg = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[mean] * 3, std=[60.0] * 3, pad_val=0, seg_pad_val=255
        ),
        backbone=dict(
            type='ResNetV1c', depth=18, stem_channels=4, base_channels=4, num_stages=2,
            strides=(1, stride), dilations=(1, 1), out_indices=(0, 1), norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(
            type='FCNHead', in_channels=8, in_index=1, channels=8, num_convs=1, concat_input=False,
            norm_cfg=dict(type='BN'), num_classes=4, align_corners=False,
        ),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    cfg = ConfigDict(cfg)
    for key, value in options.items():
        part, _, name = key.partition('__')
        cfg[part][name] = value
    return cfg


def ensemble(*configs):
    torch.manual_seed(0)
    built = MODELS.build(dict(type='mmcert.SegmentorEnsemble', members=list(configs)))
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.5)
    built.eval()
    for member in built.members:
        # Centred logits: the labels change from place to place.
        last = member.decode_head.conv_seg
        torch.nn.init.normal_(last.weight)
        with torch.no_grad():
            last.bias -= member(torch.randn(1, 3, 64, 64)).mean(dim=(0, 2, 3))
    return built


IMAGES = torch.rand(2, 3, 36, 52, generator=torch.Generator().manual_seed(1)) * 255


def predict(model, images=IMAGES):
    """Logits and labels by the model's own ``predict``."""
    size = tuple(images.shape[-2:])
    samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size)) for _ in images]
    with torch.no_grad():
        outputs = model.test_step(dict(inputs=list(images.clone()), data_samples=samples))
    return (
        torch.stack([output.seg_logits.data for output in outputs]),
        torch.stack([output.pred_sem_seg.data[0] for output in outputs]),
    )


SLIDE = dict(test_cfg__mode='slide', test_cfg__crop_size=(24, 24), test_cfg__stride=(16, 16))
PADDED = dict(data_preprocessor__test_cfg=dict(size_divisor=32))
MIXED = {
    'alike': [config(), config(mean=100.0), config(mean=90.0)],
    'other grids': [config(), config(stride=1)],
    'other ways to resize': [config(), config(decode_head__align_corners=True)],
    'slide inference': [config(), config(**SLIDE)],
    'padding': [config(), config(**PADDED)],
}


@pytest.mark.parametrize('members', MIXED.values(), ids=MIXED)
def test_predicts_the_mean_of_its_members_logits(members):
    model = ensemble(*members)
    logits, labels = predict(model)
    each = [predict(member)[0] for member in model.members]
    torch.testing.assert_close(logits, torch.stack(each).mean(dim=0), rtol=1e-5, atol=1e-5)
    assert len(labels.unique()) > 1
    assert any((labels != one.argmax(dim=1)).any() for one in each)
    with torch.no_grad():
        size = model(IMAGES).shape[-2:]
    assert (size == (5, 7)) == (members is MIXED['alike'])


@pytest.mark.parametrize('members', MIXED.values(), ids=MIXED)
@pytest.mark.parametrize('scales', [(1.0,), (0.5,), (0.5, 1.0)])
def test_smoothing_labels_as_its_own_predict_does(members, scales):
    model = ensemble(*members)
    size = tuple(IMAGES.shape[-2:])
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    segment = ImageSegmentor(model, sample, scales)
    with torch.no_grad():
        output = segment(list(IMAGES / 255))
        assert isinstance(output, LogitMaps) == (len(scales) == 1)
        found = segment.labels(list(IMAGES / 255))
    if scales == (1.0,):
        assert (found == predict(model)[1]).float().mean() > 0.999
    elif len(scales) == 1:
        small = F.interpolate(IMAGES, scale_factor=0.5, mode='bilinear')
        logits = F.interpolate(predict(model, small)[0], size=size, mode='bilinear')
        assert (found == logits.argmax(dim=1)).float().mean() > 0.99


def test_the_heads_grid_can_be_certified_where_members_share_it():
    size = tuple(IMAGES.shape[-2:])
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    segment = ImageSegmentor(ensemble(*MIXED['alike']), sample, resolution='logits')
    with torch.no_grad():
        assert segment.labels([IMAGES[0] / 255]).shape == (1, 5, 7)


def test_weights_digest_covers_every_member():
    model = ensemble(config(), config())
    before = weights_digest(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.members[1].decode_head.conv_seg.bias[0] += 1
    normalised = copy.deepcopy(model)
    normalised.members[1].data_preprocessor.mean += 1
    assert len({before, weights_digest(other), weights_digest(normalised)}) == 3


def test_state_dict_holds_the_weights_of_the_members_alone():
    keys = set(ensemble(config(), config()).state_dict())
    assert {key.partition('.')[0] for key in keys} == {'members'}
    assert keys == {
        f'members.{number}.{key}'
        for number in (0, 1)
        for key in MODELS.build(config()).state_dict()
    }


def test_channels_last_reaches_the_members():
    model = ensemble(*MIXED['alike'])
    size = tuple(IMAGES.shape[-2:])
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    settings = PrecisionSettings(channels_last=True)
    seen = []
    model.members[1].backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with settings.applied_to(model), torch.no_grad():
        labels = ImageSegmentor(model, sample, precision=settings).labels(list(IMAGES / 255))
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in seen)
    assert (labels == predict(model)[1]).float().mean() > 0.999


@pytest.mark.parametrize(
    ('members', 'error', 'words'),
    [
        ([config()], ValueError, 'at least two members'),
        ([config(), config(decode_head__num_classes=5)], ValueError, 'member 1 .* has 5 classes'),
        (
            [config(decode_head__num_classes=2, decode_head__out_channels=1)] * 2,
            ValueError,
            'binary head of one channel',
        ),
        ([config(), dict(type='SegDataPreProcessor')], TypeError, 'member 1 .* is not an'),
    ],
)
def test_refuses_members_that_do_not_go_together(members, error, words):
    with pytest.raises(error, match=words):
        SegmentorEnsemble(members)


def test_is_not_trained_and_has_no_preprocessor():
    with pytest.raises(NotImplementedError, match='train its members'):
        ensemble(config(), config())(IMAGES, [], mode='loss')
    with pytest.raises(ValueError, match='each member has its own'):
        SegmentorEnsemble([config()] * 2, data_preprocessor=dict(type='SegDataPreProcessor'))


def test_takes_what_init_model_passes_to_every_segmentor():
    SegmentorEnsemble([config()] * 2, pretrained=None, train_cfg=None)
    with pytest.raises(ValueError, match='takes no pretrained'):
        SegmentorEnsemble([config()] * 2, pretrained='weights.pth')
