"""Noise in the training pipeline."""

import hashlib

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS

import mmcert.datasets  # noqa: F401


def test_noise_of_the_pipeline_has_its_level_and_is_not_clipped():
    transform = TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=0.25))
    image = np.full((100, 100, 3), 128, dtype=np.uint8)
    noise = transform({'img': image})['img'] - 128.0
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(255 * 0.25, rel=0.03)
    assert abs(noise.mean()) < 3
    assert noise.max() > 127
    assert (image == 128).all()


def test_noise_of_the_pipeline_follows_the_workers_seed():
    transform = TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=(0.1, 0.5), prob=0.7))
    digests = set()
    for _ in range(2):
        np.random.seed(3)
        images = [transform({'img': np.zeros((8, 8, 3), np.uint8)})['img'] for _ in range(20)]
        digests.add(
            hashlib.sha256(b''.join(i.astype(np.float32).tobytes() for i in images)).digest()
        )
    assert len(digests) == 1
    clean = sum((image == 0).all() for image in images)
    assert 1 <= clean <= 14


def test_noise_of_the_pipeline_refuses_other_units():
    with pytest.raises(ValueError, match='0-255 units'):
        TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=30))
    with pytest.raises(ValueError, match='prob'):
        TRANSFORMS.build(dict(type='mmcert.AddGaussianNoise', sigma=0.3, prob=2))
