import numpy as np
import pytest

from mmcert.certify import ABSTAIN_LABEL, Hierarchy
from mmcert.report.attacks import attack_picture
from mmcert.report.pictures import (
    ABSTAIN_COLOR,
    BACKGROUND,
    GAP,
    LEGEND_HEIGHT,
    TITLE_HEIGHT,
    UNLABELLED_COLOR,
    certificate_picture,
    certificate_title,
    heat_map,
    paint,
)

PALETTE, CLASSES = [(10, 20, 30), (40, 50, 60), (200, 90, 80)], ['road', 'car', 'bus']
SHAPE = (60, 200)


def panel(picture, column, shape=SHAPE):
    left = column * (shape[1] + GAP)
    return picture[TITLE_HEIGHT : TITLE_HEIGHT + shape[0], left : left + shape[1]]


def colours(picture):
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_panels_show_the_image_and_its_maps_in_the_colours_of_the_classes():
    image = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    label, base, cert = np.zeros(SHAPE, int), np.ones(SHAPE, int), np.ones(SHAPE, int)
    label[:5], cert[:, :9] = 255, ABSTAIN_LABEL
    maps = {'label': label, 'base': base, 'cert': cert}
    picture = certificate_picture(image, maps, PALETTE, CLASSES)
    np.testing.assert_array_equal(panel(picture, 0), image)
    np.testing.assert_array_equal(panel(picture, 1), paint(label, PALETTE))
    assert colours(panel(picture, 1)) == {PALETTE[0], UNLABELLED_COLOR}
    assert colours(panel(picture, 2)) == {PALETTE[1]}
    assert (panel(picture, 3)[:, :9] == ABSTAIN_COLOR).all()


def test_the_legend_has_the_classes_that_occur():
    maps = {'cert': np.zeros(SHAPE, int), 'base': np.full(SHAPE, 2)}
    image = np.zeros((*SHAPE, 3), np.uint8)
    without = certificate_picture(image, maps, PALETTE)
    picture = certificate_picture(image, maps, PALETTE, CLASSES)
    legend = picture[len(without) :]
    assert len(legend) == LEGEND_HEIGHT
    assert {PALETTE[0], PALETTE[2]} <= colours(legend)
    assert PALETTE[1] not in colours(legend)
    maps['cert'][0] = ABSTAIN_LABEL
    more = certificate_picture(image, maps, PALETTE, CLASSES)[len(without) :]
    # White is the text's colour, too: the name takes more of it.
    assert (more == 255).sum() > (legend == 255).sum()


def test_the_legend_of_an_attack_has_the_classes_of_the_label_too():
    names = ('base_clean', 'smoothed_clean', 'smoothed_attacked', 'certified')
    maps = {name: np.zeros(SHAPE, int) for name in names}
    label = np.zeros(SHAPE, int)
    label[0], label[1] = 2, 255
    image = np.zeros((*SHAPE, 3))
    legend = attack_picture(image, image, maps, PALETTE, CLASSES, label=label)[-LEGEND_HEIGHT:]
    assert {PALETTE[0], PALETTE[2], UNLABELLED_COLOR} <= colours(legend)
    assert PALETTE[1] not in colours(legend)


def test_a_legend_wider_than_the_picture_is_continued_below():
    maps = {'cert': np.array([[0, 1, 2]])}
    names = [name * 40 for name in CLASSES]
    picture = certificate_picture(np.zeros((1, 3, 3), np.uint8), maps, PALETTE, names)
    assert len(picture) == TITLE_HEIGHT + 1 + 3 * LEGEND_HEIGHT


def test_narrow_panels_are_made_as_wide_as_their_titles_need():
    maps = {'cert': np.zeros((9, 5), int), 'radius': np.ones((9, 5))}
    image = np.full((9, 5, 3), 7, np.uint8)
    picture = certificate_picture(image, maps, PALETTE, title='certified, l2 0.169')
    width = picture.shape[1] // 3
    titles = picture[:TITLE_HEIGHT].reshape(TITLE_HEIGHT, 3, width, 3)
    # The background is all there is beside a title that is not cut.
    assert (titles[:, :, -GAP - 2 :] == BACKGROUND).all() and (titles > BACKGROUND).any()
    assert (picture[TITLE_HEIGHT:, :5] == 7).all()
    assert (picture[TITLE_HEIGHT:, 5:width] == BACKGROUND).all()


def test_certified_groups_have_the_mean_colour_of_their_classes():
    hierarchy = Hierarchy([{'vehicle': ['car', 'bus'], 'ground': ['road']}], CLASSES)
    level, groups = np.ones(SHAPE, int), np.zeros(SHAPE, int)
    level[:, :50] = 0
    maps = {
        'cert': np.where(level == 0, 1, ABSTAIN_LABEL),
        'levels': np.stack([level, groups]),
    }
    image = np.zeros((*SHAPE, 3), np.uint8)
    picture = certificate_picture(image, maps, PALETTE, CLASSES, hierarchy=hierarchy)
    assert colours(panel(picture, 2)[:, :50]) == {PALETTE[1]}
    assert colours(panel(picture, 2)[:, 50:]) == {(120, 70, 70)}
    assert (120, 70, 70) in colours(picture[-LEGEND_HEIGHT:])


def test_a_cloud_is_drawn_with_its_points_in_the_colours_of_the_classes():
    rng = np.random.default_rng(0)
    maps = {'cert': rng.integers(0, 2, 50), 'radius': rng.random(50)}
    picture = certificate_picture(rng.normal(size=(50, 6)), maps, PALETTE, CLASSES, up=1)
    assert picture.shape[1] == 2 * (360 + GAP)
    assert len(colours(picture)) > 10


def test_radii_of_zero_are_white_and_all_shapes_are_drawn():
    values = np.array([0.0, 0.1, 0.3])
    shown = heat_map(values)
    assert shown[0].tolist() == list(ABSTAIN_COLOR)
    np.testing.assert_array_equal(heat_map(values[None])[0], shown)


@pytest.mark.parametrize(
    ('certificate', 'title'),
    [
        ({}, 'smoothed model, certified'),
        ({'norm': 'l2', 'radius': 0.16862}, 'smoothed model, certified, l2 0.168'),
        (
            {'attack_on_this_input': {}, 'tau': 0.71234, 'kind': 'estimate'},
            'smoothed model, certified, tau 0.712 (an estimate)',
        ),
        (
            {'attack_on_this_input': {'cells': [3]}, 'tau': 0.5, 'kind': 'certificate'},
            'smoothed model, certified on the attack set',
        ),
        ({'kind': 'exact', 'num_values': 4}, 'base model, verified at 4 parameters'),
    ],
)
def test_titles_say_what_is_withstood(certificate, title):
    assert certificate_title(certificate) == title
