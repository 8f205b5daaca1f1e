"""The images of a folder as the source of attacks and corruptions."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from mmcert.certifier.plan_settings import PlanSettings
from mmcert.integrations import Preprocessing
from mmcert.integrations.folder import find_images
from mmcert.integrations.image_model import ModuleModel
from mmcert.integrations.smoothed import Smoothed
from mmcert.integrations.source import FolderSource
from mmcert.runs.attack_options import L2Options
from mmcert.runs.attacking import L2Attacks


@pytest.fixture
def results_folder(tmp_path):
    """Where attacks on the images of a folder go."""
    torch.manual_seed(0)
    module = torch.nn.Conv2d(3, 2, 1)

    def folder_of(data, **options):
        settings = PlanSettings(sigma=0.25)
        model = ModuleModel(module, Preprocessing(0, 1))
        smoothed = Smoothed(model, settings, results_dir=tmp_path / 'results')
        source = FolderSource(smoothed, find_images(data / 'i', data / 'l'), None, **options)
        return L2Attacks(source, L2Options(radii=(0.1,))).folder

    return folder_of


def write(data, shade, label):
    for name, array in (
        ('i', np.full((8, 9, 3), shade, np.uint8)),
        ('l', np.full((8, 9), label, np.uint8)),
    ):
        (data / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(data / name / 'one.png'), array)
    return data


def test_results_of_other_images_or_labels_are_kept_apart(tmp_path, results_folder):
    first = write(tmp_path / 'first', 100, 1)
    copied = shutil.copytree(first, tmp_path / 'copied')
    assert results_folder(first) == results_folder(copied)
    found = [
        results_folder(first),
        results_folder(write(tmp_path / 'other image', 101, 1)),
        results_folder(write(tmp_path / 'other label', 100, 0)),
    ]
    assert len(set(found)) == 3
    assert results_folder(first, reduce_labels=True) == found[2], 'labels as they are read'


def test_copies_of_an_image_with_other_labels_are_refused(tmp_path):
    """They have one name and one file of votes, which can hold one label map."""
    data = write(tmp_path / 'data', 100, 1)
    for name in ('i', 'l'):
        shutil.copytree(data / name, data / name / 'again')
    assert len(find_images(data / 'i', data / 'l')) == 2
    cv2.imwrite(str(data / 'l/again/one.png'), np.zeros((8, 9), np.uint8))
    with pytest.raises(ValueError, match='same image with the same name, but have different label'):
        find_images(data / 'i', data / 'l')
    assert len(find_images(data / 'i')) == 2
