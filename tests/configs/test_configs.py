"""Every config of the project builds what it describes."""

import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmseg.registry import DATASETS, MODELS, TRANSFORMS

from mmcert import registry
from mmcert.datasets.shapenet_part import CATEGORY_PARTS, ShapeNetPartDataset
from mmcert.denoisers import UNetDenoiser, save_denoiser
from mmcert.engine import SmoothingConfig
from mmcert.models import Consistency, Distillation
from mmcert.surrogates import Surrogate, build_attack_set, save_surrogate
from tests.openmmlab import ROOT
from tests.zoo.support import check_entry

OF_CLOUDS = ('part_shapes', 'shapenet_part')
"""Folders of configs that import mmdetection3d."""
ALL = sorted((ROOT / 'configs').glob('[!_]*/*.py'))
CLOUDS = [path for path in ALL if path.parent.name in OF_CLOUDS]
PATHS = [path for path in ALL if path not in CLOUDS]
LOADED = {path: Config.fromfile(path) for path in PATHS}
SURROGATES = [path for path in PATHS if path.parent.name == 'surrogates']
DENOISERS = [path for path in PATHS if path.parent.name == 'denoisers']
CONFIGS = [path for path in PATHS if path not in SURROGATES + DENOISERS]
"""Segmentors of images."""
GSMOOTH = [path for path in CONFIGS if path.name.startswith('gsmooth')]
RECIPES = [path for path in CONFIGS if path.stem.endswith('-300_camvid-360x480')]
"""Trained by ``mmcert.SmoothTraining`` from the clean model."""
CONTINUED = [path for path in CONFIGS + SURROGATES + DENOISERS if LOADED[path].load_from]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder in which all surrogates and denoisers have their files, though untrained."""
    folder = tmp_path_factory.mktemp('trained')
    for path in SURROGATES:
        meant = LOADED[path].model.surrogate
        small = Surrogate(
            meant.transformation, meant.low, meant.high, latent_channels=4, stride=4, width=8
        )
        file = folder / 'work_dirs/surrogates' / path.stem / 'surrogate.pth'
        file.parent.mkdir(parents=True)
        save_surrogate(file, small)
    for path in DENOISERS:
        file = folder / 'work_dirs/denoisers' / path.stem / 'denoiser.pth'
        file.parent.mkdir(parents=True)
        save_denoiser(file, UNetDenoiser(LOADED[path].model.denoiser.sigma, widths=(4,)))
    return folder


def build_pipelines(cfg):
    for name in ('train', 'val', 'test'):
        for transform in cfg[f'{name}_dataloader'].dataset.pipeline:
            TRANSFORMS.build(transform)


def _alone(model):
    """A model without the frozen one that it is trained through, which has its own file."""
    return {key: value for key, value in model.items() if key != 'segmentor'}


def perturbation_of(cfg):
    return SmoothingConfig.from_cfg(dict(cfg.smoothing)).plan().perturbation


@pytest.mark.parametrize('path', CLOUDS, ids=lambda path: path.stem)
def test_config_of_clouds_loads(path):
    pytest.importorskip('mmdet3d', reason='configs of clouds import mmdetection3d')
    assert Config.fromfile(path).default_scope == 'mmdet3d'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path, trained, monkeypatch):
    monkeypatch.chdir(trained)
    cfg = Config.fromfile(path)
    assert cfg.default_scope == 'mmseg'
    model = registry.MODELS.build(cfg.model)
    classes = DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO['classes']
    assert model.num_classes == len(classes)
    build_pipelines(cfg)
    ends = [scheduler.end for scheduler in cfg.param_scheduler]
    assert max(ends) == cfg.train_cfg.max_iters
    if cfg.get('smoothing') is not None:
        SmoothingConfig.from_cfg(dict(cfg.smoothing))


@pytest.mark.parametrize('path', SURROGATES, ids=lambda path: path.stem)
def test_surrogate_config_builds(path):
    cfg = Config.fromfile(path)
    model = MODELS.build(cfg.model)
    name = path.stem.partition('_')[0].replace('-', '_')
    assert model.surrogate.transformation.name == name
    assert model.data_preprocessor.size == (180, 240)
    build_pipelines(cfg)
    transforms = [step.type for step in cfg.val_dataloader.dataset.pipeline]
    assert transforms == ['LoadImageFromFile', 'PackSegInputs']
    milestones = [m for s in cfg.param_scheduler for m in s.get('milestones', [s.get('end')])]
    assert max(milestones) < cfg.train_cfg.max_iters


@pytest.mark.parametrize('path', DENOISERS, ids=lambda path: path.stem)
def test_denoiser_config_builds(path):
    cfg = LOADED[path]
    through = cfg.model.get('segmentor')
    model = MODELS.build(_alone(cfg.model))
    assert f's{model.denoiser.low}_' in path.stem and model.denoiser.low == model.denoiser.high
    assert ('stability' in path.stem) == (through is not None)
    if through is not None:
        # A segmentor of this project, at the end of its training.
        source = Config.fromfile(ROOT / through.config)
        stem, iteration = re.fullmatch(
            r'work_dirs/([^/]+)/iter_(\d+)\.pth', through.checkpoint
        ).groups()
        assert (stem, int(iteration)) == (Path(through.config).stem, source.train_cfg.max_iters)
    build_pipelines(cfg)
    assert max(scheduler.end for scheduler in cfg.param_scheduler) == cfg.train_cfg.max_iters


def test_there_is_a_model_for_each_surrogate():
    models = {path.stem.removeprefix('gsmooth-').partition('_')[0] for path in GSMOOTH}
    assert models == {path.stem.partition('_')[0] for path in SURROGATES}


@pytest.mark.parametrize('path', GSMOOTH, ids=lambda path: path.stem)
def test_gsmooth_config_is_of_one_transformation(path, trained, monkeypatch):
    monkeypatch.chdir(trained)
    cfg, transformation = LOADED[path], path.stem.removeprefix('gsmooth-').partition('_')[0]
    (source,) = [p for p in SURROGATES if p.stem.partition('_')[0] == transformation]
    training = LOADED[source].model
    *_, augmentation, passed, _ = cfg.train_dataloader.dataset.pipeline
    assert (augmentation.type, passed.type) == ('mmcert.SemanticTransform', 'mmcert.PerturbImage')
    assert augmentation.transformation == transformation.replace('-', '_')
    for use in (passed.perturbation, cfg.smoothing.perturbation):
        assert use.surrogate == f'work_dirs/surrogates/{source.stem}/surrogate.pth'
    # The model is certified under the noise that it was trained with.
    for scale in ('sigma1', 'sigma2'):
        assert passed.perturbation[scale] == cfg.smoothing.perturbation[scale]
    # It would refuse an attack outside the range of configs/surrogates.
    perturbation = perturbation_of(cfg)
    surrogate = perturbation.surrogate
    assert surrogate.transformation.name == transformation.replace('-', '_')
    assert perturbation.attack.kind == 'certificate'
    learned = build_attack_set(dict(training.attack), surrogate.transformation)
    assert perturbation.attack.spec() == learned.spec()
    # What the base model sees in training is the attack set.
    seen = TRANSFORMS.build(augmentation)
    if seen.range is None:
        assert seen.values.tolist() == perturbation.attack.values.tolist()
    else:
        assert seen.range == perturbation.attack.values.T.tolist()


@pytest.mark.parametrize('path', CONTINUED, ids=lambda path: path.stem)
def test_config_starts_from_the_end_of_another(path):
    cfg = LOADED[path]
    folder, stem, iteration = re.fullmatch(
        r'work_dirs/(?:(surrogates|denoisers)/)?([^/]+)/iter_(\d+)\.pth', cfg.load_from
    ).groups()
    sources = {'surrogates': SURROGATES, 'denoisers': DENOISERS, None: CONFIGS}[folder]
    (source,) = [p for p in sources if p.stem == stem]
    assert LOADED[source].train_cfg.max_iters == int(iteration)
    ours, theirs = (MODELS.build(_alone(LOADED[p].model)).state_dict() for p in (path, source))
    differ = {k for k in ours.keys() | theirs.keys() if k not in theirs or k not in ours
              or ours[k].shape != theirs[k].shape}  # fmt: skip
    # Transformations of another number of parameters have another F1.
    assert differ <= {'surrogate.parameter_encoder.weight'}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_name_states_what_it_holds(path):
    cfg = LOADED[path]
    name = path.stem
    if name.startswith('segcertify'):
        assert f's{cfg.smoothing.sigma}-n{cfg.smoothing.n}' in name
        assert (cfg.smoothing.procedure, cfg.smoothing.selection) == ('holm', 'holdout')
    if name.startswith('denoised'):
        assert f's{cfg.smoothing.sigma}-n{cfg.smoothing.n}' in name
        assert f's{cfg.smoothing.sigma}_' in cfg.smoothing.denoiser.checkpoint
    if name.startswith('recommended'):
        assert f's{cfg.smoothing.sigma}-auto' in name
        default = SmoothingConfig(sigma=0.25)
        for key in ('procedure', 'selection', 'alpha', 'n0'):
            assert cfg.smoothing[key] == getattr(default, key)
        assert cfg.smoothing.tau == default.plan().settings.tau
    if name.startswith('vanilla'):
        assert cfg.smoothing is None and cfg.load_from is None
    if size := re.search(r'camvid-(\d+)x(\d+)', name):
        assert cfg.model.data_preprocessor.get('size') in (
            tuple(map(int, size.groups())), (288, 384)
        )  # fmt: skip
    assert ('camvid' in name) == ('CamVid' in cfg.test_dataloader.dataset.type)


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_with_what_its_name_says(path):
    (config,) = LOADED[path].custom_hooks
    hook = registry.HOOKS.build(config)
    _, recipe, weight, sigma, *scale, steps = re.match(
        r'([\w-]+)_([a-z-]+)(\d*)-s([\d.]+)(?:-scale([\d.]+))?-(\d+)_', path.stem
    ).groups()
    assert (hook.noise.low, hook.noise.high) == (float(sigma), float(sigma))
    assert hook.scale == float(scale[0] or 1)
    assert LOADED[path].train_cfg.max_iters == int(steps)
    names = [type(objective).__name__.lower() for objective in hook.objectives]
    assert names == ([] if recipe == 'noise' else recipe.split('-'))
    assert hook.noise.copies * LOADED[path].train_dataloader.batch_size == 16
    for objective in hook.objectives:
        if isinstance(objective, Consistency):
            assert objective.lbd == int(weight or 10)
        if isinstance(objective, Distillation):
            assert objective.source['checkpoint'] == LOADED[path].load_from
            stem = Path(objective.source['config']).stem
            assert stem == Path(objective.source['checkpoint']).parent.name
            assert (ROOT / objective.source['config']).exists()


@pytest.mark.parametrize(
    ('name', 'radius'),
    [('gaussian-blur', 4), ('translation', 10.2), ('brightness-contrast', 0.22)],
)
def test_direct_config_buys_what_its_comment_says(name, radius):
    (path,) = [p for p in CONFIGS if p.stem.startswith(f'direct-{name}_')]
    found = perturbation_of(LOADED[path]).radius(LOADED[path].smoothing.tau)
    assert 0.999 * radius < found < 1.03 * radius


def test_the_model_index_names_what_exists():
    metafiles = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    contents = {path: yaml.safe_load((ROOT / path).read_text()) for path in metafiles}
    collections = [one for content in contents.values() for one in content.get('Collections', ())]
    assert all((ROOT / one['README']).exists() for one in collections)
    for content in contents.values():
        assert content['Models']
        for entry in content['Models']:
            check_entry(entry)
            assert entry['In Collection'] in [one['Name'] for one in collections]
            assert (ROOT / entry['Config']).exists()
    for folder in (
        'attack_sets', 'camvid', 'denoisers', 'semantic', 'surrogates', 'cityscapes',
        'pascal_context', 'ade20k',
    ):  # fmt: skip
        models = contents[f'configs/{folder}/metafile.yml']['Models']
        named = {(entry['Name'], entry['Config']) for entry in models}
        paths = (ROOT / f'configs/{folder}').glob('*.py')
        assert named == {(path.stem, f'configs/{folder}/{path.name}') for path in paths}


@pytest.mark.parametrize(
    'folder', sorted({path.parent for path in ALL}), ids=lambda path: path.name
)
def test_a_readme_says_what_a_folder_holds_and_how_to_run_it(folder):
    text = (folder / 'README.md').read_text()
    headings = re.findall('^## (.*)', text, re.MULTILINE)
    assert headings == ['Abstract', 'Citation', 'Configs', 'Results', 'Commands']
    assert f'configs/{folder.name}/metafile.yml' in (ROOT / 'model-index.yml').read_text()
    for path in re.findall(r'configs/[\w/.-]+\.py', text):
        assert (ROOT / path).exists(), path


@pytest.mark.usefixtures('mmdet3d_scope')
@pytest.mark.parametrize('path', CLOUDS, ids=lambda path: path.stem)
def test_config_of_clouds_builds_and_its_pipeline_feeds_its_model(path, shapes_root):
    cfg = Config.fromfile(path)
    name = path.stem
    assert [list(parts) for parts in cfg.model.category_parts] == [
        list(parts) for parts in CATEGORY_PARTS.values()
    ]
    model = MODELS.build(cfg.model)
    noise = [
        step.jitter_std for step in cfg.train_dataloader.dataset.pipeline
        if step.type == 'RandomJitterPoints'
    ]  # fmt: skip
    assert noise == (
        [[float(name.split('noise-s')[1].split('-')[0])] * 3] if 'noise' in name else []
    )
    for mode in ('train', 'val', 'test'):
        dataset = cfg[f'{mode}_dataloader'].dataset
        built = ShapeNetPartDataset(
            data_root=str(shapes_root),
            split='test',
            pipeline=dataset.pipeline,
            test_mode=dataset.get('test_mode', False),
        )
        points = built[0]['inputs']['points']
        assert len(points) == int(name.split('-')[-1])
        assert points.shape[1] + 3 * model.repeat_coordinates == (
            model.backbone.SA_modules[0].mlps[0][0].in_channels + 16
        )
        assert ('normals' in name) == (points.shape[1] == 22)
        largest = points[:, :3].norm(dim=1).max()
        assert largest <= 1.0001 or mode == 'train'
