"""Runs beside certificates are the same code for OpenMMLab and for a folder of images."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.runner import Runner

from mmcert.certifier.plan_settings import PlanSettings
from mmcert.engine.source import RunnerSource
from mmcert.integrations import Preprocessing
from mmcert.integrations.folder import find_images
from mmcert.integrations.image_model import ModuleModel
from mmcert.integrations.smoothed import Smoothed
from mmcert.integrations.source import FolderSource
from mmcert.runs.attack_options import L2Options
from mmcert.runs.attacked_input import read_attacked
from mmcert.runs.attacking import L2Attacks, report
from mmcert.runs.planner import PlannedRun
from mmcert.runs.redraw import redraw_run
from tests.models.test_same_votes import Plain

OPTIONS = L2Options(radii=(0.1,), losses=('ce',), steps=1, draws=2, judged=10)


@pytest.fixture
def sources(make_config, tmp_path):
    """The same model and images, of a runner and of a folder."""
    cfg = make_config(images=1)
    of_runner = RunnerSource(Runner.from_cfg(cfg))
    base = of_runner._base
    preprocessor = base.data_preprocessor
    preprocessing = Preprocessing(
        mean=preprocessor.mean.flatten().tolist(), std=preprocessor.std.flatten().tolist(),
        pixel_range=255,
    )  # fmt: skip
    settings = PlanSettings(**{key: cfg.smoothing[key] for key in cfg.smoothing})
    smoothed = Smoothed(
        ModuleModel(Plain(base), preprocessing), settings, classes=of_runner.classes,
        results_dir=tmp_path / 'folder',
    )  # fmt: skip
    root = Path(of_runner._run.dataset.data_root)
    files = find_images(root / 'images', root / 'annotations')
    return of_runner, FolderSource(smoothed, files, of_runner.logger)


def test_attacks_plans_and_second_draws_are_those_of_the_openmmlab_route(sources):
    folders = []
    for source in sources:
        assert not report(source, OPTIONS)
        (folder,) = source.out_dir.glob('attacks-*')
        folders.append(folder)
        (votes,) = source.out_dir.glob('votes-*')
        agreed = [found.contradicted.any() for _, found in redraw_run(source, votes, 5)]
        assert agreed == [False]
        run = PlannedRun.of_source(source, timed=False)
        assert (run.num_components, run.images) == (32 * 48, 1)
    for file in folders[0].glob('0*.npz'):
        ours, theirs = (read_attacked(folder / file.name) for folder in folders)
        assert ours.facts == theirs.facts
        assert ours.facts['certified'] > 0
        for name, counts in ours.confusions.items():
            assert np.array_equal(counts, theirs.confusions[name])
    ours, theirs = (json.loads((folder / 'summary.json').read_text()) for folder in folders)
    assert ours['attack_sets'] == theirs['attack_sets']


def test_attacks_on_another_data_set_have_a_folder_of_their_own(make_config, tmp_path):
    """In one work folder; the same files elsewhere are the same data."""

    def folder_of(root):
        cfg = make_config(images=1)
        if root is not None:
            cfg.test_dataloader.dataset.data_root = str(root)
            cfg.experiment_name = root.name
        return L2Attacks(RunnerSource(Runner.from_cfg(cfg)), OPTIONS).folder, Path(
            cfg.test_dataloader.dataset.data_root
        )

    first, root = folder_of(None)
    copied = shutil.copytree(root, tmp_path / 'copied')
    assert folder_of(copied)[0] == first
    found = {first}
    for name in ('images', 'annotations'):
        other = shutil.copytree(root, tmp_path / f'other-{name}')
        for file in other.rglob(f'{name}/*.png'):
            cv2.imwrite(str(file), np.zeros_like(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)))
        found.add(folder_of(other)[0])
    assert len(found) == 3
