"""The engine of l2 attacks, on segmentors whose best attack is known."""

import math

import pytest
import torch
from scipy.special import ndtr

from mmcert.attacks import (
    LOSSES,
    SEA_LOSSES,
    SEA_RADII,
    Ball,
    Goal,
    SmoothedScores,
    Steps,
    ascend,
    attack_input,
    perturbed,
)
from mmcert.perturbations import CoordinateNoise, GaussianNoise, PooledNoise, TransformationCells

ALL = torch.ones(4, 5, dtype=torch.bool)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def image_of(seed=0, size=(3, 4, 5)):
    return torch.rand(size, generator=seeded(seed))


def by_pixel(images, gain=4.0):
    """Class 1 where the mean of a pixel's channels exceeds 1/2: independent linear boundaries."""
    margin = gain * (images.mean(dim=1) - 0.5)
    return torch.stack([-margin, margin], dim=1)


def distances(image):
    """The l2 distance of each pixel to its boundary under ``by_pixel``."""
    return (image.mean(dim=0) - 0.5).abs() * math.sqrt(len(image))


def together(images):
    """All pixels have the same class, by the mean of the whole image."""
    margin = 40 * (images.mean(dim=(1, 2, 3), keepdim=True)[:, 0] - 0.5)
    margin = margin.expand(-1, *images.shape[2:])
    return torch.stack([-margin, margin], dim=1)


@pytest.mark.parametrize('loss', LOSSES)
def test_one_linear_boundary_is_crossed_just_behind_it(loss):
    image = image_of() * 0.8
    distance = (0.5 - image.mean().item()) * math.sqrt(image.numel())
    goal = Goal(torch.zeros(4, 5, dtype=torch.long), ALL, loss)
    for share, crossed in ((0.98, 0), (1.02, 20)):
        found = attack_input(together, image, goal, share * distance)
        assert found.score.item() == crossed
        assert found.delta.norm().item() <= share * distance * (1 + 1e-5)


@pytest.mark.parametrize('radii', [((1.0, 1.0),), SEA_RADII])
def test_all_boundaries_are_crossed_with_the_least_norm(radii):
    # Independent pixels: crossing all of them takes the root of the summed squared distances.
    image = image_of(1)
    labels = by_pixel(image[None]).argmax(dim=1)[0]
    least = distances(image).norm().item()
    steps = Steps(300, first=0.5, last=0.002, radii=radii)
    found = attack_input(by_pixel, image, Goal(labels, ALL), 1.02 * least, steps=steps)
    assert found.score.item() == 20
    found = attack_input(by_pixel, image, Goal(labels, ALL), 0.98 * least, steps=steps)
    assert found.score.item() < 20


def test_masked_losses_flip_more_than_plain_cross_entropy():
    image = image_of(2, (3, 12, 12))
    labels = by_pixel(image[None]).argmax(dim=1)[0]
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    radius = 0.5 * distances(image).norm().item()
    steps = Steps(100, last=0.01)
    scores = {
        loss: attack_input(
            by_pixel, image, Goal(labels, everywhere, loss), radius, steps=steps
        ).score.item()
        for loss in LOSSES
    }
    assert max(scores[loss] for loss in SEA_LOSSES) > scores['ce']
    # No attack flips more than the nearest pixels that the radius pays for.
    nearest = distances(image).flatten().sort().values.square().cumsum(0)
    assert max(scores.values()) <= int((nearest <= radius**2).sum())


@pytest.mark.parametrize(
    ('perturbation', 'size'),
    [(GaussianNoise(0.2), (3, 8, 8)), (PooledNoise(4, 0.1), (3, 8, 10))],
)
@pytest.mark.parametrize('average', ['probabilities', 'losses'])
def test_a_smoothed_linear_model_is_crossed_at_its_boundary(perturbation, size, average):
    # Under symmetric noise the majority changes where the linear function changes its sign. (Means
    # of blocks that the border cuts are resized as they are: keep them whole for a closed form.)
    image = (image_of(3, size) * 0.7 * 255).round() / 255
    if isinstance(perturbation, PooledNoise):
        image = image[:, :, :8]
    distance = (0.5 - image.mean().item()) * math.sqrt(image.numel())
    goal = Goal(torch.zeros(image.shape[1:], dtype=torch.long), torch.ones(image.shape[1:]) > 0)
    for fresh in (True, False):
        scores = SmoothedScores(together, perturbation, 8, seeded(), fresh, average)
        found = attack_input(scores, image, goal, 1.02 * distance, steps=Steps(20))
        # As far along the best direction as the radius allows.
        assert (image + found.delta[0]).mean().item() > 0.5 + 0.019 * distance / 8 / math.sqrt(3)
    assert ndtr(0.02 * distance) > 0.5


def test_common_draws_make_a_search_deterministic():
    image = image_of(4, (3, 8, 8))
    labels = torch.zeros(8, 8, dtype=torch.long)
    logits = [
        [SmoothedScores(by_pixel, GaussianNoise(0.2), 4, seeded(), fresh)]
        for fresh in (True, False)
    ]
    for fresh, (scores,) in zip((True, False), logits, strict=True):
        first, second = scores(image[None]), scores(image[None])
        assert torch.equal(first, second) != fresh
    goal = Goal(labels, labels == 0)
    deltas = [
        attack_input(
            SmoothedScores(by_pixel, GaussianNoise(0.2), 4, seeded(1)), image, goal, 0.3,
            steps=Steps(5, restarts=2), generator=seeded(2),
        ).delta
        for _ in range(2)
    ]  # fmt: skip
    assert torch.equal(*deltas)


def test_projection_is_the_nearest_point_of_ball_and_box():
    image = image_of(5)
    ball = Ball(0.7, image[None], (0.0, 1.0))
    delta = torch.randn((1, *image.shape), generator=seeded(6)) * 0.4
    found = ball.project(delta)
    assert found.norm().item() == pytest.approx(0.7, rel=1e-5)
    assert ((image + found >= -1e-6) & (image + found <= 1 + 1e-6)).all()
    # The nearest point makes an obtuse angle with every other point of a convex set.
    for seed in range(200):
        other = ball.project(torch.randn(delta.shape, generator=seeded(seed)) * 0.5)
        assert ((delta - found) * (other - found)).sum().item() <= 1e-5
    inside = delta * 0.01
    assert torch.allclose(ball.project(inside).clamp(-1, 1), torch.maximum(torch.minimum(
        inside, 1 - image[None]), -image[None]))  # fmt: skip
    assert Ball(0.7).project(delta).norm().item() == pytest.approx(0.7, rel=1e-5)
    assert ball.random(delta, seeded()).norm().item() <= 0.7 * (1 + 1e-5)


def test_an_attack_in_a_box_leaves_an_image_and_is_weaker():
    image = image_of(7)
    labels = by_pixel(image[None]).argmax(dim=1)[0]
    radius = distances(image).norm().item()
    free, boxed = (
        attack_input(by_pixel, image, Goal(labels, ALL), radius, box=box, steps=Steps(50))
        for box in (None, (0.0, 1.0))
    )
    attacked = image + boxed.delta[0]
    assert (attacked.clamp(0, 1) - attacked).abs().max().item() < 1e-6
    assert boxed.score.item() <= free.score.item()


def test_the_best_so_far_never_falls_and_is_what_is_returned():
    image = image_of(8, (3, 12, 12))
    labels = by_pixel(image[None]).argmax(dim=1)[0]
    goal = Goal(labels, torch.ones_like(labels) > 0, 'balanced_ce')
    steps = Steps(30, first=3.0, last=None, restarts=3, radii=SEA_RADII)
    found = attack_input(by_pixel, image, goal, 0.8, steps=steps, generator=seeded())
    assert len(found.history) == 3 * 31
    assert (found.history.diff(dim=0) >= 0).all()
    again = goal.evaluate(by_pixel(image[None] + found.delta), 0.0)
    assert found.score.item() == again[1].item() == found.history[-1].item()
    assert found.delta.norm().item() <= 0.8 * (1 + 1e-5)


def test_inputs_of_a_batch_are_attacked_apart():
    slope = torch.tensor([[3.0, 4.0], [-1.0, 0.0]])

    def evaluate(delta, progress):
        loss = (delta * slope).sum(dim=1)
        return loss, loss

    found = ascend(evaluate, Ball(2.0), slope, Steps(10))
    assert torch.allclose(found.delta, torch.tensor([[1.2, 1.6], [-2.0, 0.0]]), atol=1e-5)
    last = ascend(evaluate, Ball(2.0), slope, Steps(10, keep='last'))
    assert torch.allclose(last.delta, found.delta, atol=1e-5)
    assert last.score.isnan().all()


def three_classes(images):
    return torch.stack([4 * images[:, k] for k in range(3)], dim=1)


def test_targeted_and_hiding_goals():
    image = image_of(9)
    labels = three_classes(image[None]).argmax(dim=1)[0]
    found = attack_input(three_classes, image, Goal.reach(labels, ALL, 2), 1.5)
    reached = three_classes(image[None] + found.delta).argmax(dim=1)[0]
    assert found.score.item() == ((reached == 2) & (labels != 2)).sum().item() > 10
    # What has the class already costs no norm.
    assert found.delta[0][:, labels == 2].abs().max().item() < 1e-6
    found = attack_input(three_classes, image, Goal.hide(labels, ALL, 1), 0.8)
    hidden = three_classes(image[None] + found.delta).argmax(dim=1)[0]
    assert ((hidden != 1) & (labels == 1)).sum().item() == found.score.item() > 3
    assert torch.equal(hidden[labels != 1], labels[labels != 1])


def test_what_does_not_count_gets_no_gradient():
    image, labels = image_of(10), torch.full((4, 5), 255)
    labels[:2] = 0
    found = attack_input(by_pixel, image, Goal(labels, labels != 255), 0.5)
    assert found.delta[0][:, 2:].abs().max().item() == 0


def test_losses_are_what_they_say():
    logits = torch.randn((2, 3, 4), generator=seeded(11), dtype=torch.float64)
    labels = torch.randint(3, (2, 4), generator=seeded(12))
    p = logits.softmax(dim=1)
    onehot = torch.nn.functional.one_hot(labels, 3).movedim(2, 1).double()
    middle = (p + onehot) / 2

    def divergence(of):
        return torch.where(of > 0, of * (of / middle).log(), 0.0).sum(dim=1)

    by_hand = (divergence(p) + divergence(onehot)) / 2
    assert torch.allclose(LOSSES['js'](logits, labels, 0.0), by_hand)
    right = (logits.argmax(dim=1) == labels).double()
    ce = LOSSES['ce'](logits, labels, 0.0)
    assert torch.equal(LOSSES['masked_ce'](logits, labels, 0.9), right * ce)
    assert torch.allclose(LOSSES['balanced_ce'](logits, labels, 0.0), right * ce)
    assert torch.allclose(
        LOSSES['balanced_ce'](logits, labels, 0.5), (0.75 * right + 0.25 * (1 - right)) * ce
    )
    shifted = LOSSES['spherical'](3 * logits + 7, labels, 0.0)
    assert torch.allclose(shifted, LOSSES['spherical'](logits, labels, 0.0))


def test_an_attacked_input_lies_within_the_radius_whatever_rounding_does():
    image = image_of(13, (3, 60, 60))
    for seed in range(20):
        delta = Ball(0.1).random(image[None], seeded(seed))[0]
        attacked = perturbed(image, delta, 0.1)
        norm = (attacked.double() - image.double()).norm().item()
        assert 0.0999 < norm <= 0.1


@pytest.mark.parametrize(
    ('perturbation', 'inputs'),
    [
        (GaussianNoise(0.2), image_of(14, (3, 9, 11))),
        (PooledNoise(4, 0.1), image_of(14, (3, 9, 11))),
        (TransformationCells('brightness', -0.1, 0.1, PooledNoise(4, 0.1)),
         image_of(14, (3, 9, 11))),
        (CoordinateNoise(0.2), image_of(14, (30, 3))),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_gradients_go_straight_through_the_rounding(perturbation, inputs):
    def drawn(values, of):
        return of(values, perturbation.draw(inputs, [seeded(1), seeded(2)]))

    wanted = drawn(inputs, perturbation.apply)
    values = inputs.clone().requires_grad_()
    found = drawn(values, perturbation.apply_differentiably)
    assert torch.equal(found, wanted)
    weights = torch.randn(found.shape, generator=seeded(3))
    (slope,) = torch.autograd.grad((found * weights).sum(), values)
    # Without the rounding the draws are linear: a large step shows their slope.
    step = torch.randn(inputs.shape, generator=seeded(4))
    moved = drawn((inputs + 50 * step), perturbation.apply)
    change = ((moved - wanted) * weights).sum().item()
    assert (slope * 50 * step).sum().item() == pytest.approx(change, rel=0.01, abs=0.5)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Ball(0.0), 'radius must be positive'),
        (lambda: Ball(1.0, box=(0.0, 1.0)), 'needs the inputs'),
        (lambda: Ball(1.0, torch.tensor([[1.5]]), (0.0, 1.0)), 'outside of the box'),
        (lambda: Steps(0), 'steps >= 1'),
        (lambda: Steps(first=-1.0), 'must have a length'),
        (lambda: Steps(radii=((1.0, 2.0),)), 'the last of the radii'),
        (lambda: Steps(keep='worst'), "keep must be 'best'"),
        (lambda: Steps(keep='last', restarts=2), 'goes with one start'),
        (lambda: Goal(ALL.long(), ALL, 'hinge'), 'unknown loss'),
        (lambda: Goal(ALL.long(), ALL[:2]), 'differ'),
        (lambda: SmoothedScores(by_pixel, GaussianNoise(0.1), 0, seeded()), 'draws must be'),
        (lambda: attack_input(by_pixel, image_of(), Goal(ALL.long(), ALL), 1.0,
                              steps=Steps(restarts=2)), 'need a generator'),
        (lambda: attack_input(lambda x: by_pixel(x) * float('nan'), image_of(),
                              Goal(ALL.long(), ALL), 1.0).delta.sum().log(), 'nothing'),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
