"""Noisy copies and objectives: their distribution, their values, and what counts nowhere."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmcert.models import Consistency, ImageUnits, TrainingNoise, TrainingStep
from mmcert.perturbations import CyclicTranslation, PooledNoise

UNITS = ImageUnits(
    torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
    torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
    reversed_channels=True,
)


def images_of(count, height=96, width=128, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return UNITS.from_unit(torch.rand(count, 3, height, width, generator=generator))


def step_of(logits, labels, **fields):
    copies, count = logits.shape[:2]
    empty = torch.zeros(count, 3, 8, 8)
    return TrainingStep(
        clean=empty, noisy=empty.repeat(copies, 1, 1, 1, 1), labels=labels, ignore_index=255,
        iteration=0, units=UNITS, forward=lambda images: images, logits=logits,
    )  # fmt: skip


def test_units_go_back_and_forth():
    image = torch.rand(3, 5, 7)
    assert torch.allclose(UNITS.to_unit(UNITS.from_unit(image)), image, atol=1e-6)
    black = UNITS.from_unit(torch.zeros(3, 1, 1)).flatten()
    assert black.tolist() == pytest.approx([-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375])


def test_noise_has_its_level_in_image_units_and_spares_padding():
    torch.manual_seed(0)
    images = images_of(2)
    sizes = [(96, 128), (64, 100)]
    noisy = TrainingNoise(sigma=0.25, copies=3).draw(images, sizes, UNITS)
    assert noisy.shape == (3, *images.shape)
    difference = UNITS.to_unit(noisy) - UNITS.to_unit(images)
    for copy in range(3):
        for index, (height, width) in enumerate(sizes):
            part = difference[copy, index, :, :height, :width]
            assert part.flatten(1).std(dim=1).tolist() == pytest.approx([0.25] * 3, rel=0.05)
            assert abs(float(part.mean())) < 0.01
    assert (noisy[:, 1, :, 64:] == images[1, :, 64:]).all()
    assert (noisy[:, 1, :, :, 100:] == images[1, :, :, 100:]).all()
    assert not torch.equal(noisy[0], noisy[1])


def test_copies_of_an_image_share_its_level():
    torch.manual_seed(0)
    images = images_of(6)
    sizes = [(96, 128)] * 6
    for sigma, allowed in (((0.1, 0.5), None), (dict(choices=[0, 0.1, 0.4]), (0.0, 0.1, 0.4))):
        noisy = TrainingNoise(sigma=sigma, copies=2).draw(images, sizes, UNITS)
        levels = ((noisy - images) / UNITS.per_unit).flatten(2).std(dim=2)
        assert levels[0].tolist() == pytest.approx(levels[1].tolist(), rel=0.05)
        assert levels[0].max() - levels[0].min() > 0.05
        if allowed:
            for level in levels[0].tolist():
                assert min(abs(level - one) for one in allowed) < 0.01


def test_noise_warms_up_and_leaves_a_share_clean():
    torch.manual_seed(0)
    images = images_of(40, 16, 16)
    sizes = [(16, 16)] * 40
    for iteration, share in ((0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0)):
        noisy = TrainingNoise(sigma=0.2, warmup=10).draw(images, sizes, UNITS, iteration)
        level = float(((noisy - images) / UNITS.per_unit).std())
        assert level == pytest.approx(0.2 * share, rel=0.05)
    noisy = TrainingNoise(sigma=0.2, prob=0.5, copies=2).draw(images, sizes, UNITS)
    clean = (noisy == images).flatten(2).all(dim=2)
    assert 20 < int(clean.sum()) < 60
    assert (clean[0] != clean[1]).any()


def test_draws_follow_the_global_generator():
    images, sizes = images_of(2, 32, 32), [(32, 32)] * 2
    for noise in (TrainingNoise(0.25, copies=2), TrainingNoise(perturbation=PooledNoise(8, 0.1))):
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(noise.draw(images, sizes, UNITS))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


def test_a_perturbation_acts_on_the_image_in_the_order_of_the_pipeline():
    perturbation = PooledNoise(factor=8, sigma=0.1)
    images = images_of(1, 32, 40)
    torch.manual_seed(3)
    noisy = TrainingNoise(perturbation=perturbation, copies=2).draw(images, [(24, 32)], UNITS)
    torch.manual_seed(3)
    torch.rand(2, 1)
    seeds = torch.randint(2**62, (1, 2)).tolist()[0]
    image = UNITS.to_unit(images[0, :, :24, :32])
    for copy, seed in enumerate(seeds):
        expected = perturbation.sample(image, torch.Generator().manual_seed(seed))
        found = UNITS.to_unit(noisy[copy, 0, :, :24, :32])
        assert torch.allclose(found, expected, atol=1e-5)
    assert (noisy[:, 0, :, 24:] == images[0, :, 24:]).all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({}, 'either'),
        (dict(sigma=0.1, perturbation=PooledNoise(8, 0.1)), 'either'),
        (dict(sigma=30), '0-255'),
        (dict(sigma=0.2, copies=0), 'copies'),
        (dict(sigma=0.2, prob=2), 'prob'),
        (dict(sigma=dict(levels=[1])), 'choices'),
        (dict(perturbation=PooledNoise(8, 0.1), warmup=5), 'warmup'),
        (dict(perturbation=CyclicTranslation(2.0)), 'moves no labels'),
    ],
)
def test_noise_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainingNoise(**arguments)


def test_consistency_is_zero_for_copies_that_agree_and_the_mean_divergence_otherwise():
    torch.manual_seed(0)
    one = torch.randn(1, 2, 5, 6, 8)
    labels = torch.zeros(2, 24, 32, dtype=torch.long)
    same = Consistency(lbd=10).losses(step_of(one.repeat(3, 1, 1, 1, 1), labels))
    assert float(same['loss_consistency']) == pytest.approx(0, abs=1e-5)
    logits = torch.randn(3, 2, 5, 6, 8)
    found = Consistency(lbd=2, eta=0.5).losses(step_of(logits, labels))
    softmax = logits.double().softmax(dim=2)
    mean = softmax.mean(dim=0)
    by_hand = sum(F.kl_div(one.log(), mean, reduction='none').sum(1).mean() for one in softmax) / 3
    assert float(found['loss_consistency']) == pytest.approx(2 * float(by_hand), rel=1e-4)
    entropy = -(mean * mean.log()).sum(1).mean()
    assert float(found['loss_entropy']) == pytest.approx(0.5 * float(entropy), rel=1e-4)


def test_sure_copies_that_contradict_have_a_finite_gradient():
    logits = torch.tensor([200.0, -200.0]).view(1, 1, 2, 1, 1)
    both = torch.cat([logits, -logits]).requires_grad_()
    losses = Consistency(lbd=1, eta=1).losses(step_of(both, torch.zeros(1, 4, 4).long()))
    sum(losses.values()).backward()
    assert math.isfinite(float(losses['loss_consistency']))
    assert both.grad.isfinite().all()


def test_pixels_without_label_count_nowhere():
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 3, 4, 4)
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[:, 8:] = 255
    changed = logits.clone()
    changed[..., 2:, :] = 50 * torch.randn(2, 2, 3, 2, 4)
    changed[0, 0, 0, 3, 3] = float('nan')
    for objective in (Consistency(),):
        left, right = (
            objective.losses(step_of(one.clone().requires_grad_(), labels))
            for one in (logits, changed)
        )
        for name, value in left.items():
            assert float(value) == pytest.approx(float(right[name]), rel=1e-5), name
    # Nothing labelled at all.
    nothing = step_of(logits, torch.full_like(labels, 255))
    assert float(Consistency().losses(nothing)['loss_consistency']) == 0
