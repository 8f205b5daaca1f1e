"""Noisy copies and objectives: their distribution, their values, and what counts nowhere."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmcert.models import (
    CATRS,
    Consistency,
    Distillation,
    ImageUnits,
    SmoothAdv,
    TrainingNoise,
    TrainingStep,
)
from mmcert.models.objectives import with_two_channels
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
        iteration=0, units=UNITS, sizes=[(8, 8)] * count, forward=lambda images: images,
        logits=logits,
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
    assert math.isfinite(losses['loss_consistency'].item())
    assert both.grad.isfinite().all()


OBJECTIVES = {
    'consistency': lambda: Consistency(),
    'catrs': lambda: CATRS(lbd=0.7),
    'distillation': lambda: fixed_teacher(torch.arange(3.0).view(1, 3, 1, 1)),
}


def fixed_teacher(logits, **arguments):
    """A distillation from a teacher that always says the same."""
    objective = Distillation(dict(config='none', checkpoint='none'), **arguments)
    objective.units = UNITS
    objective.teacher = lambda images, mode: logits.expand(len(images), -1, 4, 4)
    return objective


@pytest.mark.parametrize('name', OBJECTIVES)
def test_pixels_without_label_count_nowhere(name):
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 3, 4, 4)
    labels = torch.randint(3, (2, 16, 16))
    labels[:, 8:] = 255
    changed = logits.clone()
    changed[..., 2:, :] = 50 * torch.randn(2, 2, 3, 2, 4)
    objective, found = OBJECTIVES[name](), []
    for one in (logits, changed):
        torch.manual_seed(1)
        leaf = one.clone().requires_grad_()
        losses = objective.losses(step_of(leaf, labels))
        sum(losses.values()).backward()
        assert (leaf.grad[..., 2:, :] == 0).all()
        assert leaf.grad[..., :2, :].abs().sum() > 0
        found.append({key: value.item() for key, value in losses.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    nothing = step_of(logits, torch.full_like(labels, 255))
    assert all(value.item() == 0 for value in objective.losses(nothing).values())


def test_catrs_takes_the_copies_that_a_pixel_can_be_sure_of():
    # One pixel, class 0; margins of the copies: 3 and 1 are right, -2 is wrong.
    logits = torch.zeros(3, 1, 2, 1, 1)
    logits[:, 0, 0, 0, 0] = torch.tensor([3.0, -2.0, 1.0])
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    losses = F.softplus(-torch.tensor([3.0, 1.0, -2.0])).tolist()
    allowed = [sum(losses[:k]) / 3 for k in (1, 2, 3)]
    lows, highs = [], []
    torch.manual_seed(0)
    for _ in range(300):
        found = CATRS(lbd=0.5).losses(step_of(logits, labels))
        lows.append(min(range(3), key=lambda k: abs(allowed[k] - found['loss_low'].item())) + 1)
        assert found['loss_low'].item() == pytest.approx(allowed[lows[-1] - 1], rel=1e-5)
        highs.append(found['loss_high'].item())
        assert highs[-1] == pytest.approx(0.5 * losses[2] * (lows[-1] == 3), rel=1e-5)
    # K ~ Bin(3, 2/3), and at least 1.
    shares = [lows.count(k) / 300 for k in (1, 2, 3)]
    assert shares == pytest.approx([7 / 27, 12 / 27, 8 / 27], abs=0.09)
    # Where all are right, all count.
    found = CATRS().losses(step_of(logits.abs(), labels))
    sure = F.softplus(-torch.tensor([3.0, 2.0, 1.0]))
    assert found['loss_low'].item() == pytest.approx(sure.mean().item(), rel=1e-5)
    assert found['loss_high'].item() == pytest.approx(0.5 * sure[2].item(), rel=1e-5)


def test_distillation_is_the_divergence_from_the_teacher():
    torch.manual_seed(0)
    teacher, logits = torch.randn(1, 3, 1, 1), torch.randn(2, 2, 3, 4, 4)
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    objective = fixed_teacher(teacher, temperature=2.0, weight=0.5)
    found = objective.losses(step_of(logits, labels))['loss_distillation'].item()
    target = (teacher / 2).softmax(dim=1).expand(4, -1, 4, 4)
    logs = (logits / 2).flatten(0, 1).log_softmax(dim=1)
    by_hand = F.kl_div(logs, target, reduction='none').sum(1).mean().item()
    assert found == pytest.approx(0.5 * 4 * by_hand, rel=1e-5)
    same = objective.losses(step_of(teacher.expand(2, 2, -1, 4, 4), labels))
    assert same['loss_distillation'].item() == pytest.approx(0, abs=1e-6)


def attacked(steps, epsilon=0.3, sizes=((32, 32), (32, 20)), **fields):
    """An attack on a small network, and what it raises before and after."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 4, 3, stride=2)
    )
    clean = images_of(2, 32, 32)
    step = TrainingStep(
        clean=clean, noisy=TrainingNoise(0.25, copies=3).draw(clean, sizes, UNITS),
        labels=torch.randint(4, (2, 32, 32)), ignore_index=255,
        iteration=fields.pop('iteration', 0), units=UNITS, sizes=sizes, forward=network,
    )  # fmt: skip
    objective = SmoothAdv(epsilon, steps, **fields)
    attack = objective.attack(step)
    costs = [objective.cost(step, one).tolist() for one in (torch.zeros_like(attack), attack)]
    assert all(parameter.grad is None for parameter in network.parameters())
    return attack, costs, step, objective


@pytest.mark.parametrize('steps', [1, 2, 5])
def test_the_attack_stays_in_its_ball_and_does_harm(steps):
    attack, (before, after), step, objective = attacked(steps)
    norms = attack.flatten(1).norm(dim=1)
    assert norms.max().item() <= 0.3 * (1 + 1e-5)
    assert norms.min().item() > 0.29
    assert not attack.requires_grad
    assert (attack[1, :, :, 20:] == 0).all(), 'padding takes no part'
    assert all(high > low for low, high in zip(before, after, strict=True))
    # All copies get the same attack, in image units.
    noisy = step.noisy.clone()
    objective.change(step)
    moved = (step.noisy - noisy) / UNITS.per_unit
    assert torch.allclose(moved, attack.expand_as(moved), atol=1e-5)


def test_the_attack_does_more_harm_than_a_random_one_of_its_length():
    attack, (before, after), step, objective = attacked(4, sizes=((32, 32), (32, 32)))
    random = torch.randn_like(attack)
    random *= 0.3 / random.flatten(1).norm(dim=1)[:, None, None, None]
    harm = torch.tensor(after) - torch.tensor(before)
    assert (harm > 5 * (objective.cost(step, random) - torch.tensor(before)).abs()).all()


def test_the_attack_warms_up():
    for iteration, share in ((0, 0.1), (4, 0.5), (30, 1.0)):
        attack, *_ = attacked(2, warmup=10, iteration=iteration)
        assert attack.flatten(1).norm(dim=1).max().item() == pytest.approx(0.3 * share, rel=1e-4)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Consistency(lbd=-1), 'lbd and eta'),
        (lambda: Consistency(eta=float('nan')), 'lbd and eta'),
        (lambda: CATRS(lbd=-1), 'lbd'),
        (lambda: SmoothAdv(0), 'epsilon'),
        (lambda: SmoothAdv(0.1, steps=0), 'steps'),
        (lambda: SmoothAdv(0.1, step_size=-1.0), 'step_size'),
        (lambda: Distillation(dict(config='a')), 'needs config and checkpoint'),
        (lambda: Distillation(dict(config='a', checkpoint='b', size=3)), 'takes scale'),
        (lambda: Distillation(dict(config='a', checkpoint='b'), temperature=0), 'temperature'),
    ],
)
def test_objectives_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_binary_head_has_two_classes():
    logits = torch.randn(2, 1, 3, 3)
    probabilities = with_two_channels(logits).softmax(dim=1)
    assert torch.allclose(probabilities[:, 1], logits[:, 0].sigmoid())
    several = torch.randn(2, 5, 3, 3, dtype=torch.bfloat16)
    assert torch.equal(with_two_channels(several), several.float())
