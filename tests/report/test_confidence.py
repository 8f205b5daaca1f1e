"""Maps of confidence as arrays and pictures."""

import cv2
import numpy as np
import pytest

from mmcert.report.confidence import LARGEST, NOTHING, confidence_picture, write_confidence
from mmcert.report.pictures import ABSTAIN_COLOR, SCALE_HEIGHT, TITLE_HEIGHT, heat_map
from mmcert.votes.confidence import NO_RUNNER_UP

PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
CLASSES = ['road', 'car', 'sky']
SHAPE = (40, 150)


@pytest.fixture
def maps():
    half = np.zeros(SHAPE, dtype=bool)
    half[:, 75:] = True
    return {
        'guess': np.where(half, 1, 0).astype(np.uint8),
        'vote_share': np.where(half, 0.25, 1.0).astype(np.float32),
        'lower_bound': np.where(half, 0.0, 0.9).astype(np.float32),
        'radius': np.where(half, 0.0, 0.4).astype(np.float32),
        'runner_up': np.where(half, 2, NO_RUNNER_UP).astype(np.uint8),
        'runner_up_share': np.where(half, 0.5, 0.0).astype(np.float32),
    }


def panels_of(picture, count=3, width=SHAPE[1] + 4):
    """The colours of the left and the right half of each panel."""
    height = TITLE_HEIGHT + SHAPE[0] + SCALE_HEIGHT
    tops = [row * height + TITLE_HEIGHT + 10 for row in range(2)]
    return [
        [tuple(picture[top, column * width + x].tolist()) for x in (30, 120)]
        for top in tops
        for column in range(count)
    ]


def test_each_panel_has_its_colours(maps):
    picture = confidence_picture(maps, PALETTE, CLASSES)
    assert picture.dtype == np.uint8
    guess, share, bound, radius, runner_up, _ = panels_of(picture)
    shade = {v: tuple(heat_map(np.array([[v]]), None, 1.0)[0, 0].tolist()) for v in (0.25, 0.9, 1)}
    assert guess == [(200, 0, 0), (0, 200, 0)]
    # Shares and bounds have one scale in all pictures; that of radii ends at the largest one.
    assert share == [shade[1], shade[0.25]]
    assert bound == [shade[0.9], ABSTAIN_COLOR]
    assert radius == [shade[1], ABSTAIN_COLOR]
    assert runner_up == [ABSTAIN_COLOR, (0, 0, 200)]


def test_heat_maps_stand_above_scales_and_maps_of_classes_do_not(maps):
    picture = confidence_picture(maps, PALETTE)
    scale = picture[TITLE_HEIGHT + SHAPE[0] + 8]
    width = SHAPE[1] + 4
    left, middle = scale[:width], scale[width : 2 * width]
    assert len(np.unique(left, axis=0)) == 1
    assert len(np.unique(middle, axis=0)) > 50
    assert middle[6].sum() < middle[140].sum()


def test_the_legend_names_classes_that_occur_and_what_is_white(maps):
    without = confidence_picture(maps, PALETTE)
    legend = confidence_picture(maps, PALETTE, CLASSES)[len(without) :].reshape(-1, 3).tolist()
    assert all(colour in legend for colour in PALETTE)
    few = {**maps, 'guess': maps['guess'] * 0, 'runner_up': maps['runner_up'] * 0 + 1}
    legend = confidence_picture(few, PALETTE, CLASSES)[len(without) :].reshape(-1, 3).tolist()
    assert [0, 0, 200] not in legend and NOTHING


def test_what_is_not_known_is_not_drawn(maps):
    few = {name: maps[name] for name in ('guess', 'vote_share')}
    picture = confidence_picture(few, PALETTE, CLASSES)
    assert picture.shape[1] < confidence_picture(maps, PALETTE, CLASSES).shape[1]


def test_a_cloud_is_drawn_at_its_points(maps):
    rng = np.random.default_rng(0)
    flat = {name: values.reshape(-1)[::60] for name, values in maps.items()}
    with pytest.raises(ValueError, match='give them as well'):
        confidence_picture(flat, PALETTE, CLASSES)
    points = rng.normal(size=(len(flat['guess']), 6))
    picture = confidence_picture(flat, PALETTE, CLASSES, points=points)
    assert picture.shape[0] > 2 * 360


def test_files_hold_all_pixels_and_pictures_of_large_maps_fewer(maps, tmp_path):
    wide = {name: np.tile(values, (1, 8)) for name, values in maps.items()}
    assert wide['guess'].shape[1] > LARGEST
    picture = confidence_picture(wide, PALETTE, CLASSES)
    assert picture.shape[1] < 3 * wide['guess'].shape[1]
    write_confidence(tmp_path / 'new', 'street', wide, picture)
    with np.load(tmp_path / 'new/street.npz', allow_pickle=False) as stored:
        assert stored.keys() == wide.keys()
        for name, values in wide.items():
            assert stored[name].dtype == values.dtype
            np.testing.assert_array_equal(stored[name], values)
    read = cv2.imread(str(tmp_path / 'new/street.png'), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[..., ::-1], picture)
    write_confidence(tmp_path, 'cloud', maps)
    assert not (tmp_path / 'cloud.png').exists()
