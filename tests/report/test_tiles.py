"""Colours of classes."""

import cv2
import numpy as np
import pytest

from mmcert.report.tiles import COLOURS, class_colours

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision
# deficiency", IEEE Transactions on Visualization and Computer Graphics 2009, severity 1, for
# linear RGB.
VISION = {
    'usual': np.eye(3),
    'without red cones': [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                          [-0.003882, -0.048116, 1.051998]],
    'without green cones': [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                            [-0.011820, 0.042940, 0.968881]],
    'without blue cones': [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                           [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize('seen', VISION.values(), ids=VISION)
def test_classes_are_told_apart_without_some_cones(seen):
    """A CIE distance of 15 is clear to see; black is what has no ground truth, white abstains."""
    colours = np.concatenate([class_colours(len(COLOURS)), [[0, 0, 0], [255, 255, 255]]]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(seen), 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(shown[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert distances[~np.eye(len(lab), dtype=bool)].min() > 15


def test_many_classes_have_colours_of_their_own():
    colours = class_colours(150)
    assert colours.shape == (150, 3)
    assert len(np.unique(colours, axis=0)) > 140
