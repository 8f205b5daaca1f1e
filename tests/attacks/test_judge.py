"""What the smoothed model says at an attacked input, and when a certificate is broken."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from mmcert.attacks.judge import class_counts, hits_of, least_tau, minority_p_values
from mmcert.attacks.sets import parameter_set
from mmcert.perturbations import (
    BrightnessContrast,
    CyclicTranslation,
    Enumeration,
    Exponential,
    GaussianBlur,
    GaussianNoise,
    PooledNoise,
    TransformationCells,
)
from mmcert.sampling import SamplingSettings, collect_votes

SETTINGS = SamplingSettings(n0=1, n=None, num_classes=3, batch_size=7)


def bright(images):
    return (torch.stack(list(images))[:, 0] > 0.5).long()


def test_counts_are_those_of_each_class_and_follow_the_seed():
    image = torch.tensor([[[0.1, 0.45, 0.9]]])
    noise = GaussianNoise(0.1)
    counts = class_counts(bright, image, noise, SETTINGS, 200)
    assert counts.shape == (3, 1, 3)
    assert (counts.sum(dim=0) == 200).all()
    assert counts[:, 0, 0].tolist() == [200, 0, 0]
    assert 100 < counts[0, 0, 1] < 180
    assert hits_of(counts, np.array([[0, 1, 1]])).tolist() == [[200, 200 - counts[0, 0, 1], 200]]
    other = SamplingSettings(n0=1, n=None, num_classes=3, seed=1)
    assert not torch.equal(counts, class_counts(bright, image, noise, other, 200))
    assert torch.equal(counts, class_counts(bright, image, noise, SETTINGS, 200))


def test_content_that_moves_is_counted_where_it_was():
    image = torch.zeros(1, 6, 6)
    image[:, 2, 3] = 1
    shift = CyclicTranslation(1.0)
    counts = class_counts(bright, image, shift, SETTINGS, 50)
    assert counts[1, 2, 3] == 50
    assert counts[1].sum() == 50
    votes = collect_votes(bright, image, shift, SamplingSettings(n0=5, n=50, num_classes=3))
    assert votes.guess[2, 3] == 1


def test_p_values_of_a_minority():
    hits = np.arange(41)
    assert np.allclose(minority_p_values(hits, 40), binom.cdf(hits, 40, 0.5))


@pytest.mark.parametrize('noise', [GaussianNoise(0.25), PooledNoise(8, 0.1)])
@pytest.mark.parametrize('radius', [0.01, 0.17, 0.5])
def test_the_least_threshold_covers_the_radius_and_no_smaller_one_does(noise, radius):
    tau = least_tau(noise, radius)
    assert noise.radius(tau) >= radius
    assert noise.radius(tau - 1e-9) < radius
    with pytest.raises(ValueError, match='certifies no radius'):
        least_tau(noise, 1000.0)


@pytest.mark.parametrize(
    ('perturbation', 'low', 'high', 'count', 'smoothed'),
    [
        (TransformationCells('brightness', -0.1, 0.1, GaussianNoise(0.2)), [-0.1], [0.1], 5, True),
        (TransformationCells('brightness', values=[-0.1, 0.2], noise=GaussianNoise(0.2)),
         [-0.1], [0.2], 2, True),
        (Enumeration('rotation', values=[-2, 2]), [-2], [2], 2, False),
        (GaussianBlur(Exponential(mean=4.0)), [0], [4 * np.log(2)], 5, True),
        (CyclicTranslation(3.0), [-2, -2], [2, 2], 8, True),
        (BrightnessContrast(0.3, 0.2), [0, -0.1349], [0, 0.1349], 9, True),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_attack_sets_are_those_of_the_certificates(perturbation, low, high, count, smoothed):
    found = parameter_set(perturbation, 0.75, points=5)
    assert found.values.amin(dim=0).tolist() == pytest.approx(low, abs=1e-4)
    assert found.values.amax(dim=0).tolist() == pytest.approx(high, abs=1e-4)
    assert len(found.values) == count
    assert (found.smoothing is not None) == smoothed
    image = torch.rand(1, 3, 8, 8)
    assert found.transformation(image, found.values[0]).shape == image.shape


def test_a_norm_has_no_parameters():
    with pytest.raises(ValueError, match='not about the parameters'):
        parameter_set(GaussianNoise(0.25), 0.75)
