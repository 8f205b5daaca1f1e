"""The drawn street scenes."""

import numpy as np
import pytest

from mmcert.datasets import StreetScenesDataset
from mmcert.scenes import draw_scene


def test_scenes_are_the_same_everywhere():
    image, labels = draw_scene(64, 96, (0, 7))
    again, _ = draw_scene(64, 96, (0, 7))
    np.testing.assert_array_equal(image, again)
    assert (image != draw_scene(64, 96, (0, 8))[0]).any()
    assert image.shape == (64, 96, 3)
    assert set(np.unique(labels)) <= {*range(8), 255}


def test_every_class_of_the_scenes_occurs():
    counts = sum(
        np.bincount(draw_scene(64, 96, (0, k))[1].ravel(), minlength=256) for k in range(10)
    )
    assert (counts[:8] > 50).all()
    assert counts[255] < 0.15 * counts.sum()


def test_the_data_set_draws_its_files_once(tmp_path):
    def build():
        return StreetScenesDataset(
            split='test', num_images=3, size=(32, 48), data_root=str(tmp_path), pipeline=[]
        )

    def times():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.png')}

    assert len(build()) == 3
    drawn = times()
    assert len(build()) == 3
    assert times() == drawn
    assert len(list(tmp_path.rglob('*.png'))) == 6
    assert [p.name for p in tmp_path.iterdir()] == ['test-3-32x48']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(split='dev', num_images=1), 'train, val, test'),
        (dict(split='val', num_images=0), 'at least 1'),
    ],
)
def test_impossible_scenes_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        StreetScenesDataset(data_root=str(tmp_path), pipeline=[], **arguments)
