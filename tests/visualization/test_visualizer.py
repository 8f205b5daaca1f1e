"""The pictures of certified images."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmcert.visualization import CertifiedVisualizer


@pytest.mark.parametrize('abstained', [(255, 255, 255), (200, 0, 9)])
def test_the_picture_shows_abstentions_in_their_colour(abstained):
    visualizer = CertifiedVisualizer(abstain_color=abstained)
    visualizer.dataset_meta = dict(classes=('a', 'b'), palette=[[10, 20, 30], [40, 50, 60]])
    sample = SegDataSample()
    for name, values in (
        ('gt_sem_seg', [[0, 255]]),
        ('base_sem_seg', [[1, 1]]),
        ('cert_sem_seg', [[1, 254]]),
        ('cert_radius', [[0.5, 0.0]]),
    ):
        sample.set_data({name: PixelData(data=torch.tensor([values]))})
    drawn = visualizer.compose(np.full((1, 2, 3), 7, np.uint8), sample)
    # Two rows of three panels of 2 pixels, made as wide as their titles need, below these.
    (image, label, base), (certified, radius, _) = (
        drawn[row].reshape(3, -1, 3)[:, :2].tolist() for row in (22, 45)
    )
    assert image == [[7] * 3] * 2
    assert label == [[10, 20, 30], [0, 0, 0]]
    assert base == [[40, 50, 60]] * 2
    assert certified == [[40, 50, 60], list(abstained)]
    assert radius[0] != radius[1] == list(abstained)


def test_a_plain_sample_is_drawn_as_mmseg_draws_it(tmp_path):
    visualizer = CertifiedVisualizer()
    visualizer.dataset_meta = dict(classes=('a', 'b'), palette=[[10, 20, 30], [40, 50, 60]])
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.zeros(1, 32, 32, dtype=torch.long)))
    visualizer.add_datasample(
        'x', np.zeros((32, 32, 3), np.uint8), sample, out_file=str(tmp_path / 'a.png')
    )
    assert (tmp_path / 'a.png').exists()
