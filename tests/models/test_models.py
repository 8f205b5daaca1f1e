"""The smoothed function: an mmsegmentation model between noise and votes."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from scipy.special import ndtr

from mmcert.certifier.images import PIXEL_RANGE, to_unit_range
from mmcert.engine import SmoothingConfig
from mmcert.models import ImageSegmentor, NoisySegDataPreProcessor, SmoothedSegmentor
from mmcert.sampling import SamplingSettings, collect_votes
from tests.openmmlab import BrightnessSegmentor


def sample_for(height, width, **metainfo):
    shape = (height, width)
    return SegDataSample(metainfo={'ori_shape': shape, 'img_shape': shape, **metainfo})


def image_of(height, width, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)


def smoothed(base, **smoothing):
    published = {'procedure': 'holm', 'selection': 'holdout'}
    config = SmoothingConfig.from_cfg({'sigma': 0.25, 'alpha': 0.01, **published, **smoothing})
    return SmoothedSegmentor(base.eval(), config.plan(['dark', 'bright']))


def certify(base, image, *, metainfo=None, **smoothing):
    sample = sample_for(*image.shape[-2:], **(metainfo or {}))
    model = smoothed(base, **smoothing)
    return model.test_step({'inputs': [image], 'data_samples': [sample]})[0]


def test_pixel_units_are_converted_without_loss():
    levels = torch.arange(256, dtype=torch.uint8)[None, None]
    assert torch.equal(to_unit_range(levels) * PIXEL_RANGE, levels.float())


@pytest.mark.parametrize('values', [[-2.0, 2.0], [0.0, 600.0], [0.0, float('nan')], [0, 60000]])
def test_images_that_are_not_raw_are_refused(values):
    with pytest.raises(ValueError, match='raw image in 0-255'):
        to_unit_range(torch.tensor([[values]]))


def test_attacked_images_are_raw_images_too():
    # A brighter one, and one whose edges a blur made overshoot.
    for values in ([10.0, 319.0], [-3.3, 258.2]):
        attacked = torch.tensor([[values]])
        torch.testing.assert_close(to_unit_range(attacked) * PIXEL_RANGE, attacked)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('binary', [False, True])
@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_no_certificate_exceeds_the_distance_to_the_boundary(channels, binary, mode):
    # sigma in [0, 1] units, the preprocessor's 0-255, its normalisation and the decoding all have
    # to agree for this to hold.
    base = BrightnessSegmentor(channels, binary, mode)
    image = image_of(24, 24, channels)
    result = certify(base, image, n=200, tau=0.75)
    mean = (image.float() / 255).mean(0).numpy()
    guess = result.pred_sem_seg.data[0].numpy()
    distance = (2 * guess - 1) * (mean - 0.5) * channels**0.5
    certified = (result.cert_sem_seg.data != 254)[0].numpy()
    radius = result.metainfo['certificate']['promise']['radius']
    assert (distance[certified] > radius).all()
    assert certified[distance > radius + 0.3].all()
    assert 0.1 < certified.mean() < 0.9
    np.testing.assert_array_equal(result.base_sem_seg.data[0].numpy(), (mean > 0.5).astype(int))


def test_votes_have_the_probabilities_of_the_noise_level():
    image = image_of(40, 40, 3)
    segment = ImageSegmentor(BrightnessSegmentor(3).eval(), sample_for(40, 40))
    config = SmoothingConfig.from_cfg({'sigma': 0.5, 'n': 800})
    votes = collect_votes(
        segment,
        image.float() / 255,
        config.plan().perturbation,
        SamplingSettings(n0=50, n=800, num_classes=2, batch_size=50),
    )
    mean = (image.float() / 255).mean(0).double().numpy()
    p = ndtr((2 * votes.guess - 1) * (mean - 0.5) * 3**0.5 / 0.5)
    z = (votes.hits / 800 - p) / np.sqrt(p * (1 - p) / 800)
    assert np.abs(z).max() < 5
    assert z.std() == pytest.approx(1, abs=0.1)


def test_the_input_scale_belongs_to_the_smoothed_function():
    # At scale 1/2 a pixel's label depends on the mean of 2 x 2 noisy pixels: four times the
    # distance budget in variance, certified at the original size.
    image = image_of(16, 16).float().mul(0.2).add(150).to(torch.uint8)
    full = certify(BrightnessSegmentor(), image, n=100, scales=1.0)
    half = certify(BrightnessSegmentor(), image, n=100, scales=0.5)
    assert half.cert_sem_seg.data.shape == full.cert_sem_seg.data.shape == (1, 16, 16)
    certified = [(r.cert_sem_seg.data != 254).float().mean() for r in (full, half)]
    assert certified[1] > certified[0] + 0.1
    assert half.metainfo['certificate']['model']['scales'] == [0.5]


@pytest.mark.parametrize('binary', [False, True])
def test_scales_and_mirroring_average_one_shared_draw(binary):
    # A pixelwise model commutes with mirroring, and several equal scales change nothing.
    base, image = BrightnessSegmentor(1, binary).eval(), image_of(12, 20)
    sample = sample_for(12, 20)
    noisy = [image.float() / 255 + 0.25 * torch.randn(1, 12, 20) for _ in range(3)]
    plain = ImageSegmentor(base, sample).labels(noisy)
    assert torch.equal(ImageSegmentor(base, sample, flip=True).labels(noisy), plain)
    assert torch.equal(ImageSegmentor(base, sample, scales=(1.0, 1.0)).labels(noisy), plain)
    mixed = ImageSegmentor(base, sample, scales=(0.5, 1.0), flip=True).labels(noisy)
    assert mixed.shape == plain.shape
    assert (mixed != plain).any()


def test_mirroring_is_undone_before_averaging():
    class Column(BrightnessSegmentor):
        def encode_decode(self, inputs, batch_img_metas):
            # Bright on the left half of whatever it sees, by a margin that grows to the edge.
            ramp = torch.linspace(1, -1, inputs.shape[-1]).expand_as(inputs[:, :1])
            return torch.cat([-ramp + 0.1, ramp], dim=1)

    segment = ImageSegmentor(Column().eval(), sample_for(4, 8), flip=True)
    # Seen twice, once mirrored, left and right balance and the constant decides everywhere.
    assert (segment.labels([torch.zeros(1, 4, 8)]) == 0).all()


def test_padding_of_the_preprocessor_is_free_of_noise_and_cut_off():
    base = BrightnessSegmentor().eval()
    base.data_preprocessor = MODELS.build(
        dict(
            type='SegDataPreProcessor',
            mean=[127.5],
            std=[50.0],
            pad_val=0,
            test_cfg=dict(size_divisor=32),
        )
    )
    seen = []
    original = base.encode_decode
    base.encode_decode = lambda inputs, metas: seen.append(inputs) or original(inputs, metas)
    result = certify(base, image_of(20, 20), n=50, batch_size=4)
    assert result.cert_sem_seg.data.shape == (1, 20, 20)
    assert seen[1].shape[-2:] == (32, 32)
    assert (seen[1][..., 20:, :] == 0).all()
    assert (seen[1][..., 20:] == 0).all()


def test_the_pipeline_sample_is_not_written_into_by_the_copies():
    base = BrightnessSegmentor(mode='slide')
    sample = sample_for(24, 24, img_path='a.png')
    model = smoothed(base, n=40)
    model.test_step({'inputs': [image_of(24, 24)], 'data_samples': [sample]})
    assert set(sample.metainfo) == {'ori_shape', 'img_shape', 'img_path', 'name', 'certificate'}


def test_images_of_different_sizes_in_one_batch_are_certified_one_by_one():
    model = smoothed(BrightnessSegmentor(), n=60)
    images = [image_of(12, 16), image_of(20, 8, seed=1)]
    samples = [sample_for(12, 16), sample_for(20, 8)]
    together = model.test_step({'inputs': images, 'data_samples': samples})
    assert [tuple(s.cert_sem_seg.data.shape) for s in together] == [(1, 12, 16), (1, 20, 8)]
    alone = model.test_step({'inputs': images[1:], 'data_samples': [sample_for(20, 8)]})[0]
    assert torch.equal(alone.cert_sem_seg.data, together[1].cert_sem_seg.data)


def test_a_mirrored_test_image_is_not_the_original():
    with pytest.raises(ValueError, match='changed the image'):
        certify(BrightnessSegmentor(), image_of(8, 8), metainfo={'flip': True})


def test_training_through_the_wrapper_is_the_base_models():
    base = BrightnessSegmentor()
    model = smoothed(base)
    assert torch.equal(
        model(torch.zeros(1, 1, 8, 8), mode='tensor'), base(torch.zeros(1, 1, 8, 8), mode='tensor')
    )


@pytest.mark.parametrize(('sigma', 'low', 'high'), [(0.25, 0.25, 0.25), ((0.1, 0.5), 0.1, 0.5)])
def test_the_preprocessor_adds_noise_of_its_level_in_training_only(sigma, low, high):
    preprocessor = NoisySegDataPreProcessor(sigma=sigma, mean=[0.0], std=[255.0], size=(200, 200))
    images = [torch.full((1, 200, 200), 128, dtype=torch.uint8) for _ in range(20)]
    samples = [sample_for(200, 200) for _ in images]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, 200, 200))
    data = {'inputs': images, 'data_samples': samples}
    noisy = preprocessor(data, training=True)['inputs']
    levels = noisy.flatten(1).std(dim=1)
    assert levels.min() > 0.95 * low
    assert levels.max() < 1.05 * high
    assert noisy.min() < 0, 'the noise must not be clipped'
    if low < high:
        assert levels.max() - levels.min() > 0.1
    clean = preprocessor(data, training=False)['inputs']
    assert clean.std() < 1e-6
    assert all(image.dtype == torch.uint8 for image in images)


def test_the_preprocessor_leaves_a_share_clean():
    preprocessor = NoisySegDataPreProcessor(sigma=0.25, prob=0.5, mean=[0.0], std=[1.0])
    levels = [preprocessor._perturb(torch.zeros(1, 8, 8)).std() > 0 for _ in range(400)]
    assert 120 < sum(levels) < 280
    with pytest.raises(ValueError, match='prob'):
        NoisySegDataPreProcessor(sigma=0.25, prob=1.5)
