"""Corruptions of images: as published, and the same whatever came before."""

from importlib import metadata

import numpy as np
import pytest
import torch

from mmcert.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, chosen
from mmcert.corruptions.images import ImageCorruption, versions

pytest.importorskip('imagecorruptions', reason='the extra `corruptions` is not installed')

LIGHT = ['shot_noise', 'impulse_noise', 'frost', 'snow', 'spatter', 'elastic_transform']
"""Random ones that compile nothing."""


@pytest.fixture(scope='module')
def image():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8))


def corrupted(name, image, severity=2, seed=0):
    return CORRUPTIONS[name](image, severity, seed).inputs


@pytest.mark.parametrize('name', LIGHT)
def test_an_image_is_corrupted_alike_whatever_came_before(name, image):
    first = corrupted(name, image)
    np.random.seed(5)
    corrupted('gaussian_noise', image)
    again = corrupted(name, image)
    assert torch.equal(first, again)
    assert first.shape == image.shape
    assert first.dtype == image.dtype
    assert not torch.equal(first, corrupted(name, image, seed=1))
    assert not torch.equal(first, corrupted(name, image, severity=3))


def test_the_global_generator_stays_where_it_was(image):
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    corrupted('gaussian_noise', image)
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_images_of_the_same_severity_get_noise_of_their_own(image):
    other = image.clone()
    other[0, 0, 0] += 1
    noise = [corrupted('gaussian_noise', x).int() - x.int() for x in (image, other)]
    assert (noise[0] != noise[1])[:, 1:].float().mean() > 0.5


def test_contrast_and_noise_are_those_of_the_paper(image):
    pixels = image.double() / 255
    means = pixels.mean(dim=(1, 2), keepdim=True)
    for severity, factor in zip(SEVERITIES, (0.4, 0.3, 0.2, 0.1, 0.05), strict=True):
        expected = (((pixels - means) * factor + means) * 255).floor()
        # The package cuts down what it has computed in another order.
        assert (corrupted('contrast', image, severity) - expected).abs().max() <= 1
    grey = torch.full((3, 60, 60), 128.0)
    noise = (corrupted('gaussian_noise', grey, 1) - grey) / 255
    assert noise.std().item() == pytest.approx(0.08, rel=0.05)


def test_channels_come_in_the_order_that_is_said(image):
    rgb = ImageCorruption('saturate', 'digital', bgr=False)
    assert torch.equal(rgb(image.flip(0), 4).inputs.flip(0), corrupted('saturate', image, 4))
    assert not torch.equal(rgb(image, 4).inputs, corrupted('saturate', image, 4))


def test_floating_point_levels_are_corrupted_as_bytes_are(image):
    found = corrupted('pixelate', image.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, corrupted('pixelate', image).float())


def test_what_is_no_8_bit_image_is_refused(image):
    with pytest.raises(ValueError, match='severity must be 1 to 5, got 6'):
        corrupted('fog', image, 6)
    with pytest.raises(ValueError, match=r'sides of at least 32 pixels, got \(3, 20, 50\)'):
        corrupted('fog', image[:, :20])
    with pytest.raises(ValueError, match='takes colour images'):
        corrupted('fog', image[:1])
    with pytest.raises(ValueError, match='takes 8-bit images'):
        corrupted('fog', image / 255)


def test_a_missing_package_is_named(image, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr('mmcert.corruptions.images.metadata.version', absent)
    with pytest.raises(RuntimeError, match=r"pip install 'mmcert\[corruptions\]'"):
        corrupted('fog', image)
    with pytest.raises(RuntimeError, match='imagecorruptions-imaug'):
        versions()


def test_groups_name_what_papers_report():
    common = [one.name for one in chosen(['common'], 'image')]
    extra = [one.name for one in chosen(['extra'], 'image')]
    assert (len(common), len(extra)) == (15, 4)
    assert [one.name for one in chosen(['all'], 'image')] == common + extra
    published = GROUPS['image']['cityscapes-c']
    assert len(published) == 16
    assert set(published) <= {*common, *extra}
    assert [one.name for one in chosen(['fog', 'weather'], 'image')] == [
        'fog', 'snow', 'frost', 'brightness',
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown corruption 'rain'"):
        chosen(['rain'], 'image')
    with pytest.raises(ValueError, match="unknown corruption 'fog'; there are jitter, scale"):
        chosen(['fog'], 'points')


@pytest.mark.slow
@pytest.mark.parametrize('name', GROUPS['image']['all'])
def test_every_corruption_at_every_severity(name, image):
    changes = []
    for severity in SEVERITIES:
        found = corrupted(name, image, severity)
        assert torch.equal(found, corrupted(name, image, severity))
        changes.append((found.float() - image.float()).abs().mean().item())
    assert min(changes) > 0
    # The milder ones of "saturate" take colour away, the others add some.
    assert changes[-1] > changes[0] or name in ('saturate', 'glass_blur', 'frost')
