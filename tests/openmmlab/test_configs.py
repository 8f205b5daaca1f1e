"""Every config of the project builds what it describes."""

import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS, MODELS, TRANSFORMS

from mmcert.engine import SmoothingConfig

from .conftest import ROOT

CONFIGS = [
    path
    for path in sorted((ROOT / 'configs').glob('[!_]*/*.py'))
    if Config.fromfile(path).default_scope == 'mmseg'
]
"""Those of images; ``test_part_shapes`` has those of clouds."""


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path, tmp_path):
    cfg = Config.fromfile(path)
    model = MODELS.build(cfg.model)
    classes = DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO['classes']
    assert model.num_classes == len(classes)
    for name in ('train', 'val', 'test'):
        for transform in cfg[f'{name}_dataloader'].dataset.pipeline:
            TRANSFORMS.build(transform)
    ends = [scheduler.end for scheduler in cfg.param_scheduler]
    assert max(ends) == cfg.train_cfg.max_iters
    if 'smoothing' in cfg:
        SmoothingConfig.from_cfg(dict(cfg.smoothing))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_name_states_what_it_holds(path):
    cfg = Config.fromfile(path)
    name = path.stem
    if name.startswith('segcertify'):
        assert f's{cfg.smoothing.sigma}-n{cfg.smoothing.n}' in name
        assert (cfg.smoothing.procedure, cfg.smoothing.selection) == ('holm', 'holdout')
    if name.startswith('recommended'):
        assert f's{cfg.smoothing.sigma}-auto' in name
        default = SmoothingConfig(sigma=0.25)
        for key in ('procedure', 'selection', 'tau', 'alpha', 'n0'):
            assert cfg.smoothing[key] == getattr(default, key)
    assert ('camvid' in name) == ('CamVid' in cfg.test_dataloader.dataset.type)


def test_the_metafile_names_configs_that_exist():
    index = (ROOT / 'model-index.yml').read_text()
    for line in index.splitlines():
        if line.strip().startswith('- configs'):
            metafile = ROOT / line.strip()[2:]
            paths = [x.split(': ')[1] for x in metafile.read_text().splitlines() if 'Config:' in x]
            assert paths
            assert all((ROOT / path).exists() for path in paths)
