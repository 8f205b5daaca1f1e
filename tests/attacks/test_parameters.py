"""Attacks on the parameter of a transformation, where the worst parameter is known."""

import math

import pytest
import torch

from mmcert.attacks import exhaustive, gradient
from mmcert.transformations import build

BRIGHTNESS = build('brightness')


def threshold(image):
    """Class 1 where the mean of the channels exceeds 1/2."""
    return (image.mean(dim=0) > 0.5).long()


def band_scores(images):
    """Logits: class 0 is likeliest where the image is 0.6, and wins within 0.2 of it."""
    closeness = 4 - 100 * (images.mean(dim=1) - 0.6).square()
    return torch.stack([closeness, torch.zeros_like(closeness)], dim=1)


def band(image):
    return band_scores(image[None])[0].argmax(dim=0)


def ramp(height=4, width=10):
    """Columns of 0.05, 0.15 ... 0.95."""
    columns = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    return columns.expand(3, height, width)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- every parameter of a set ---


def test_brightness_flips_exactly_the_pixels_that_it_carries_over_the_threshold():
    image, label = ramp(), threshold(ramp())
    attack = exhaustive(threshold, image, BRIGHTNESS, [0, 0.1, -0.2, 0.0], label)
    assert attack.parameters.tolist() == [[0], [0.1], [-0.2], [0]]
    assert attack.accuracy.tolist() == [1, 0.9, 0.8, 1]
    assert attack.accuracy.dtype == attack.parameters.dtype == torch.float64
    assert attack.worst.tolist() == [-0.2]
    assert attack.robust.all(dim=0).tolist() == [True] * 4 + [False] * 3 + [True] * 3
    assert torch.equal(attack.labels, threshold(image - 0.2))


def test_of_equally_bad_parameters_the_first_is_the_worst():
    image, label = ramp(), threshold(ramp())
    attack = exhaustive(threshold, image, BRIGHTNESS, [0, 0.2, -0.2], label)
    assert attack.worst.tolist() == [0.2]
    assert torch.equal(attack.labels, threshold(image + 0.2))
    assert attack.robust.float().mean() == pytest.approx(0.6)


def test_pixels_without_a_label_do_not_count():
    image, label = ramp(), threshold(ramp())
    label[:, 3:5] = 7
    attack = exhaustive(threshold, image, BRIGHTNESS, [0.2, -0.2], label, ignore_index=7)
    assert attack.accuracy.tolist() == [1, pytest.approx(6 / 8)]
    assert attack.robust.all(dim=0).tolist() == [True] * 3 + [False] * 4 + [True] * 3


def test_content_that_left_the_frame_is_wrong():
    image, label = ramp(), threshold(ramp())
    shift = build(dict(type='translation', padding='zeros'))
    attack = exhaustive(threshold, image, shift, [(0, 0), (3, 0), (0, -1)], label)
    assert attack.accuracy.tolist() == pytest.approx([1, 0.7, 0.75])
    assert attack.worst.tolist() == [3, 0]
    assert (attack.labels[:, 7:] == 255).all()
    assert torch.equal(attack.labels[:, :7], label[:, :7])
    expected = torch.zeros(4, 10, dtype=torch.bool)
    expected[1:, :7] = True
    assert torch.equal(attack.robust, expected)
    cyclic = build(dict(type='translation', padding='cyclic'))
    assert exhaustive(threshold, image, cyclic, [(3, -1), (7, 2)], label).robust.all()


def test_what_is_no_attack_set_image_or_label_is_refused():
    image, label = ramp(), threshold(ramp())
    for arguments, message in [
        ((threshold, image, BRIGHTNESS, [], label), 'at least one parameter'),
        ((threshold, image, BRIGHTNESS, [2], label), 'shift must lie in'),
        ((threshold, image * 255, BRIGHTNESS, [0], label), 'divide 0-255'),
        ((threshold, image, BRIGHTNESS, [0], label[:2]), 'does not fit an image'),
        ((threshold, image, BRIGHTNESS, [0], label.double()), 'integers'),
        ((threshold, image, BRIGHTNESS, [0], label * 0 + 255), 'no pixel is labelled'),
        ((lambda x: x[0], image, BRIGHTNESS, [0], label), 'integers'),
        ((lambda x: label[:2], image, BRIGHTNESS, [0], label), r'predictions .* got \(2, 10\)'),
    ]:
        with pytest.raises(ValueError, match=message):
            exhaustive(*arguments)


# --- gradient search ---


def test_the_search_finds_the_worst_brightness_inside_the_box():
    image = torch.full((3, 4, 5), 0.31, dtype=torch.float64)
    label = torch.ones(4, 5, dtype=torch.long)
    attack = gradient(band_scores, band, image, BRIGHTNESS, -0.3, 0.6, label, generator=generator())
    assert attack.parameters.shape == (4, 1)
    assert attack.parameters[0].item() == pytest.approx(0.29, abs=0.9 / 400)
    assert attack.worst.item() == pytest.approx(0.29, abs=0.2)
    assert attack.accuracy.min() == 0
    assert not attack.robust.any()
    assert (attack.labels == 0).all()
    # Both ends, and the image itself, are right.
    assert exhaustive(band, image, BRIGHTNESS, [-0.3, 0, 0.6], label).robust.all()


def test_the_search_finds_an_end_where_that_is_the_worst():
    def scores(images):
        margin = 20 * (images.mean(dim=1) - 0.5)
        return torch.stack([-margin, margin], dim=1)

    label = threshold(ramp())
    for low, high, end in [(-0.3, 0.1, -0.3), (-0.1, 0.3, 0.3)]:
        attack = gradient(
            scores, threshold, ramp(), BRIGHTNESS, low, high, label,
            generator=generator(), steps=3, restarts=1, judged=1,
        )  # fmt: skip
        assert attack.parameters.tolist() == [[end]]
        assert attack.accuracy.tolist() == pytest.approx([0.7])


def test_the_search_reads_scores_where_the_content_went():
    # The class is lost near column 9, whatever the image: the content of column 5 has to go there.
    column = torch.arange(16, dtype=torch.float64)
    away = 3 - (column - 9).square() / 4

    def scores(images):
        return torch.stack([away, 0 * away])[:, None].expand(len(images), 2, 7, 16)

    label = torch.full((7, 16), 255)
    label[3, 5] = 1
    image = torch.rand(3, 7, 16, generator=generator(), dtype=torch.float64)
    shift = build('translation')
    attack = gradient(
        scores, lambda x: scores(x[None])[0].argmax(dim=0),
        image, shift, (-4, 0), (10, 0), label, generator=generator(),
    )  # fmt: skip
    assert attack.parameters[0].tolist() == [pytest.approx(4, abs=14 / 400), 0]
    assert attack.accuracy[0] == 0


def test_the_loss_is_that_of_the_softmax_averaged_over_the_draws():
    # Two draws of noise: the worst shift of their mean is neither one's.
    noise = torch.tensor([0.0, 0.3], dtype=torch.float64)
    sizes = set()

    def scores(images):
        sizes.add(len(images))
        values = images.mean(dim=1) + noise[:, None, None]
        closeness = 6 - 60 * (values - 0.7).square() * torch.tensor([1, 4])[:, None, None]
        return torch.stack([closeness, 0 * closeness], dim=1)

    image = torch.full((1, 2, 2), 0.4, dtype=torch.float64)
    label = torch.ones(2, 2, dtype=torch.long)
    attack = gradient(
        scores, threshold, image, BRIGHTNESS, -0.5, 0.5, label,
        generator=generator(), draws=2, steps=30,
    )  # fmt: skip
    assert sizes == {2}
    shifts = torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)
    right = [scores(image.expand(2, -1, -1, -1) + s).softmax(dim=1)[:, 1].mean() for s in shifts]
    worst = float(shifts[torch.stack(right).argmin()])
    assert 0.01 < worst < 0.29
    assert attack.parameters[0].item() == pytest.approx(worst, abs=1 / 400)


def test_searches_depend_on_the_generator_alone_and_leave_no_gradient():
    image = torch.full((3, 4, 5), 0.31, dtype=torch.float64)
    label = torch.ones(4, 5, dtype=torch.long)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def search(seed, **options):
        return gradient(
            lambda x: weight * band_scores(x), band, image, BRIGHTNESS, -0.3, 0.6, label,
            generator=generator(seed), judged=9, **options,
        ).parameters  # fmt: skip

    assert torch.equal(search(0), search(0))
    assert not torch.equal(search(0), search(1))
    assert weight.grad is None
    assert search(0, steps=0, restarts=0).flatten().sort().values.tolist() == [-0.3, 0.6]


def test_a_box_of_one_point_is_tried_once():
    label = threshold(ramp())
    attack = gradient(
        band_scores, band, ramp(), BRIGHTNESS, 0.1, 0.1, label, generator=generator(), steps=2
    )
    assert attack.parameters.tolist() == [[0.1]]


def test_searches_that_cannot_be_are_refused():
    image, label = ramp(16, 10), threshold(ramp(16, 10))

    def search(transformation, low, high, scores=band_scores, **options):
        gradient(
            scores, band, image, build(transformation), low, high, label,
            generator=generator(), **options,
        )  # fmt: skip

    for cfg, ends in [
        ('pixelate', (1, 3)),
        ('jpeg', (30, 40)),
        (dict(type='defocus_blur', kernel='benchmark'), (0, 4)),
    ]:
        with pytest.raises(ValueError, match='no gradient reaches the parameter; use exhaustive'):
            search(cfg, *ends)
    with pytest.raises(ValueError, match='low <= high'):
        search('brightness', 0.2, 0.1)
    with pytest.raises(ValueError, match=r'scores must have shape \(3, classes, 16, 10\)'):
        search('brightness', 0, 0.1, lambda x: band_scores(x)[..., :4], draws=3)
    with pytest.raises(ValueError, match='not finite'):
        search('brightness', 0, 0.1, lambda x: band_scores(x) * math.nan)
    for option, value in [('steps', -1), ('restarts', -1), ('draws', 0), ('judged', 0)]:
        with pytest.raises(ValueError, match=f'{option} must be at least'):
            search('brightness', 0, 0.1, **{option: value})


@pytest.mark.parametrize(('name', 'low', 'high'), [
    ('gaussian_blur', 0.0, 4.0), ('defocus_blur', 1.0, 3.0), ('motion_blur', (1, -30), (5, 30)),
    ('rotational_blur', 1.0, 5.0), ('zoom_blur', 1.05, 1.2), ('rotation', -5.0, 5.0),
    ('scaling', 0.9, 1.2), ('contrast', -0.5, 0.5),
])  # fmt: skip
def test_every_differentiable_transformation_can_be_searched(name, low, high):
    image = torch.rand(3, 8, 11, generator=generator(), dtype=torch.float32)
    label = threshold(image)

    def scores(images):
        margin = 30 * (images.mean(dim=1) - 0.5)
        return torch.stack([-margin, margin], dim=1)

    attack = gradient(
        scores, threshold, image, build(name), low, high, label,
        generator=generator(), steps=4, restarts=2,
    )  # fmt: skip
    assert attack.parameters.shape[1] == len(build(name).parameters)
    assert attack.accuracy.min() == attack.accuracy[(attack.parameters == attack.worst).all(1)]
    assert attack.accuracy.min() < 1
