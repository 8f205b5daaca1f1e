"""Surrogates in training: losses, figures, the tool, and images seen through them."""

import importlib.util
import json
import math
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmseg.registry import MODELS, TRANSFORMS

from mmcert.datasets import StreetScenesDataset
from mmcert.evaluation.surrogate_metric import SurrogateMetric
from mmcert.models import SurrogateModel
from mmcert.perturbations import GaussianNoise, SurrogateTransform
from mmcert.report.pictures import GAP, TITLE_HEIGHT
from mmcert.scenes import draw_scene
from mmcert.surrogates import Displacement, Surrogate, load_surrogate, save_surrogate
from mmcert.visualization.surrogates import compare_surrogate
from tests.openmmlab import ROOT, run_tool

SIZE = (36, 48)
CASES = {
    'defocus_blur': (0, 3, dict(values=[1, 3])),
    'brightness': (-0.2, 0.2, dict(range=(-0.1, 0.1), mode='sampled')),
    'jpeg': (10, 100, dict(range=(20, 90), mode='sampled')),
    'motion_blur': ([0, -90], [6, 90], dict(values=[[4, 0], [2, 45]])),
    'rotation': (-10, 10, dict(values=[-5, 5])),
}
SMALL = dict(latent_channels=8, stride=4, width=8)


def scenes(count=3):
    images = np.stack([draw_scene(*SIZE, (0, index))[0] for index in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def model_of(name='defocus_blur', sigma1=0.1, sigma2=0.5, **options):
    low, high, attack = CASES[name]
    torch.manual_seed(0)
    surrogate = dict(transformation=name, low=low, high=high, **SMALL)
    options = dict(attack=attack) | options
    return SurrogateModel(surrogate, sigma1, sigma2, **options)


# --- losses ---


def dense_norm(delta, matrix, sigma1, sigma2):
    """||S^{-1/2} delta||_2 with S = sigma1^2 A A^T + sigma2^2 I written out."""
    places = delta[0, 0].numel()
    whole = matrix.double()[:, None].expand(-1, places, -1).reshape(-1, matrix.shape[1])
    covariance = sigma1**2 * whole @ whole.T + sigma2**2 * torch.eye(len(whole)).double()
    flat = delta.double().flatten(1)
    return (flat * torch.linalg.solve(covariance, flat.T).T).sum(1).sqrt()


@pytest.mark.parametrize('name', CASES)
def test_losses_are_those_of_their_definition(name):
    model, images = model_of(name, target=0.3, weight=2.0), scenes()
    surrogate = model.surrogate
    torch.manual_seed(5)
    found = {key: value.item() for key, value in model(images, mode='loss').items()}
    # The same draws in the same order: u, attacks, noise.
    torch.manual_seed(5)
    u = torch.rand(3, len(surrogate.low), dtype=torch.float64) * 2 - 1
    attacks = model._random_attacks(3)
    latents = surrogate.encode(images)
    noise = torch.randn_like(latents)
    real = surrogate.transformation(images, surrogate.parameters_at(u))
    made = surrogate(images, u, 0.5 * noise)
    assert found['loss_image'] == pytest.approx((made - real).abs().mean().item(), rel=1e-5)
    moved = surrogate.encode(surrogate.transformation(images, attacks)) - latents
    matrix = surrogate.parameter_encoder.weight
    if name == 'rotation':
        at = surrogate.normalized(attacks).float()
        moved = moved - (at @ matrix.T)[..., None, None]
        norms = (moved.flatten(1).norm(dim=1) / 0.5).square() + (at[:, 0] / 0.1).square()
        norms = norms.sqrt()
    else:
        norms = dense_norm(moved, matrix, 0.1, 0.5)
    assert found['displacement'] == pytest.approx(norms.mean().item(), rel=1e-4)
    penalty = 2.0 * (norms / 0.3 - 1).clamp_min(0).square().mean().item()
    assert found['loss_displacement'] == pytest.approx(penalty, rel=1e-3)
    assert penalty > 0


def test_without_weight_the_loss_is_that_of_gsmooth_alone():
    model, images = model_of(weight=0, target=1e-3), scenes()
    losses = model(images, mode='loss')
    total, _ = model.parse_losses(losses)
    assert losses['loss_displacement'].item() == 0
    assert total.item() == losses['loss_image'].item() > 0


def test_the_penalty_begins_at_the_target_and_grows():
    images, penalties = scenes(), []
    for target in (0.05, 0.1, 0.2, 1e6):
        torch.manual_seed(1)
        losses = model_of(target=target)(images, mode='loss')
        displacement = losses['displacement'].item()
        penalties.append(losses['loss_displacement'].item())
    assert 0.2 < displacement < 1e6
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[-1] == 0 < penalties[-2]


@pytest.mark.parametrize('name', ['defocus_blur', 'rotation'])
def test_gradients_reach_all_three_networks(name):
    model = model_of(name, target=0.1)
    losses = model(scenes(), mode='loss')
    parts = {
        part: list(getattr(model.surrogate, part).parameters())
        for part in ('image_encoder', 'parameter_encoder', 'decoder')
    }
    for loss, reached in (
        ('loss_image', set(parts)),
        ('loss_displacement', {'image_encoder', 'parameter_encoder'}),
    ):
        model.zero_grad()
        losses[loss].backward(retain_graph=True)
        moved = {
            part
            for part, weights in parts.items()
            if any(w.grad is not None and float(w.grad.abs().max()) > 0 for w in weights)
        }
        assert moved == reached, loss


def test_training_lowers_the_loss_and_brings_the_displacement_to_the_target():
    model, images = model_of('brightness', target=0.4, weight=0.05), scenes(4)
    with torch.no_grad():
        # An encoder that the attack moves far too much.
        model.surrogate.image_encoder.layers[0].weight *= 6
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    history = []
    for _ in range(40):
        losses = model(images, mode='loss')
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        history.append([losses[key].item() for key in ('loss_image', 'displacement')])
    first, last = np.mean(history[:5], axis=0), np.mean(history[-5:], axis=0)
    assert last[0] < 0.8 * first[0]
    assert first[1] > 2 * 0.4
    assert last[1] < 0.6 * first[1]


def test_attacks_are_members_of_the_set():
    torch.manual_seed(0)
    finite = model_of('motion_blur')
    drawn = {tuple(row) for row in finite._random_attacks(40).tolist()}
    assert drawn == {(4, 0), (2, 45)}
    whole = model_of('jpeg')._random_attacks(200)
    assert torch.equal(whole, whole.round())
    assert whole.min() >= 20 and whole.max() <= 90
    assert len(whole.unique()) > 20
    shifts = model_of('brightness')._random_attacks(400)[:, 0]
    at_an_end = (shifts.abs() > 0.0999).double().mean()
    assert 0.4 < at_an_end < 0.6 and shifts.abs().max() <= 0.1
    assert shifts.dtype == torch.float64


def test_parameters_that_stand_in_for_negative_ones_stay_whole_and_within_the_range():
    surrogate = model_of('jpeg').surrogate
    u = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None]
    values = surrogate.parameters_at(u)
    assert torch.equal(values, values.round()) and torch.equal(values, values.flip(0))
    assert (values.min(), values.max()) == (10, 100)


# --- figures of held-out images ---


@pytest.mark.parametrize('name', CASES)
def test_figures_are_those_of_a_direct_computation(name):
    model, images = model_of(name).eval(), scenes(2)
    samples = [BaseDataElement(metainfo=dict(img_path=f'{k}.png')) for k in range(2)]
    found = model(images, samples, mode='predict')
    assert [sample.img_path for sample in found] == ['0.png', '1.png']
    surrogate = model.surrogate
    shares = (0, 0.25, 0.5, 0.75, 1)
    steps = [surrogate.low + s * (surrogate.high - surrogate.low) for s in shares]
    u = surrogate.normalized(torch.stack(steps))
    # Qualities are whole numbers.
    parameters = surrogate.parameters_at(u)
    for index, (image, sample) in enumerate(zip(images, found, strict=True)):
        batch = image.expand(5, -1, -1, -1)
        real = surrogate.transformation(batch, parameters)
        with torch.no_grad():
            noise = torch.empty_like(surrogate.encode(batch))
            noise.normal_(generator=torch.Generator().manual_seed(index))
            error = (surrogate(batch, u) - real).abs().mean()
            noisy = (surrogate(batch, u, 0.5 * noise) - real).abs().mean()
        assert sample.error == pytest.approx(float(error), rel=1e-5)
        assert sample.noisy_error == pytest.approx(float(noisy), rel=1e-5)
        expected = Displacement(surrogate, 0.1, 0.5).supremum(image, model.attack).value
        assert sample.displacement == pytest.approx(expected, rel=1e-9)
    assert [s.noisy_error for s in model(images, mode='predict')] == [s.noisy_error for s in found]


def test_a_tensor_is_made_at_random_parameters():
    model, images = model_of(), scenes(2)
    torch.manual_seed(2)
    made = model(images)
    torch.manual_seed(2)
    u = torch.rand(2, 1, dtype=torch.float64) * 2 - 1
    assert torch.equal(made, model.surrogate(images, u))


def test_the_metric_pools_what_the_model_says():
    metric = SurrogateMetric()
    figures = np.random.default_rng(0).random((11, 3))
    names = ('error', 'noisy_error', 'displacement')
    for rows in (figures[:4], figures[4:]):
        metric.process(None, [dict(zip(names, row, strict=True)) for row in rows])
    found = metric.evaluate(size=11)
    error, noisy, displacement = figures.T
    low, median, high = np.sort(displacement)[[1, 5, 9]]
    assert found == pytest.approx(
        {
            'surrogate/error': error.mean(),
            'surrogate/noisy_error': noisy.mean(),
            'surrogate/displacement_q10': low,
            'surrogate/displacement_median': median,
            'surrogate/displacement_q90': high,
        }
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(sigma1=0), 'sigma1 must be positive, got 0'),
        (dict(sigma2=-1), 'sigma2 must be positive, got -1'),
        (dict(sigma2=math.inf), 'sigma2 must be a finite number'),
        (dict(target=0), 'target must be positive'),
        (dict(weight=-0.1), 'weight must be a number of at least 0, got -0.1'),
        (dict(weight=math.nan), 'weight must be a number of at least 0, got nan'),
        (dict(attack=dict(values=[2, 4])), r'from \[0.0\] to \[3.0\], got \[4.0\]'),
        (dict(attack=dict(values=[])), 'at least one'),
        (dict(attack=dict(range=(0, 2))), "mode='lipschitz'"),
        (dict(attack=dict(transformation='jpeg', values=[20])), 'made for defocus_blur'),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_of(**options)


@pytest.mark.parametrize('mode', ['loss', 'predict'])
def test_images_that_were_not_scaled_are_refused(mode):
    with pytest.raises(ValueError, match=r'must lie in \[0, 1\], got values from'):
        model_of()(255 * scenes(), mode=mode)


# --- images seen through a perturbation ---


def scene(index=0):
    image, labels = draw_scene(*SIZE, (0, index))
    return dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map'])


def perturb(perturbation, **options):
    return TRANSFORMS.build(dict(type='mmcert.PerturbImage', perturbation=perturbation, **options))


@pytest.fixture
def surrogate_file(tmp_path):
    path = tmp_path / 'surrogate.pth'
    save_surrogate(path, model_of().surrogate)
    return path


@pytest.mark.parametrize('through', ['surrogate', 'noise'])
def test_an_image_becomes_what_smoothing_would_make_of_it(surrogate_file, through):
    if through == 'surrogate':
        cfg = dict(type='mmcert.SurrogateTransform', surrogate=str(surrogate_file), sigma1=0.1,
                   sigma2=0.5)  # fmt: skip
        perturbation = SurrogateTransform(str(surrogate_file), 0.1, 0.5)
    else:
        cfg, perturbation = dict(type='mmcert.GaussianNoise', sigma=0.3), GaussianNoise(0.3)
    transform = perturb(cfg)
    np.random.seed(4)
    found = transform(scene())
    np.random.seed(4)
    np.random.random()
    generator = torch.Generator().manual_seed(int(np.random.randint(2**31)))
    image = torch.from_numpy(scene()['img']).permute(2, 0, 1).contiguous().float() / 255
    expected = perturbation.sample(image, generator).permute(1, 2, 0) * 255
    np.testing.assert_array_equal(found['img'], expected.numpy())
    assert found['img'].dtype == np.float32 and found['img'].flags.c_contiguous
    assert found['img'].shape == (*SIZE, 3)
    np.testing.assert_array_equal(found['gt_seg_map'], scene()['gt_seg_map'])
    if through == 'noise':
        # Not clipped.
        assert found['img'].min() < 0 and found['img'].max() > 255
    assert type(perturbation).__name__ in repr(transform)


def test_drawn_seeds_follow_the_workers(surrogate_file):
    cfg = dict(type='mmcert.SurrogateTransform', surrogate=str(surrogate_file), sigma1=0.1,
               sigma2=0.5)  # fmt: skip
    transform = perturb(cfg)

    def images(worker):
        worker_init_fn(worker, num_workers=2, rank=0, seed=7)
        return np.stack([transform(scene(index))['img'] for index in (0, 0, 1)])

    first = images(0)
    np.testing.assert_array_equal(images(0), first)
    assert np.abs(images(1) - first).max() > 1
    # The same image is another one each time it is seen.
    assert np.abs(first[0] - first[1]).max() > 1


def test_only_a_share_of_the_images_is_perturbed():
    def changed(prob, count):
        np.random.seed(0)
        transform = perturb(dict(type='mmcert.GaussianNoise', sigma=0.1), prob=prob)
        small = np.full((4, 4, 3), 100, np.uint8)
        return sum(transform(dict(img=small))['img'].dtype == np.float32 for _ in range(count))

    assert changed(0, 20) == 0
    assert changed(1, 20) == 20
    assert 85 <= changed(0.5, 200) <= 115


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(perturbation=dict(type='mmcert.CoordinateNoise', sigma=0.1)), "domain 'image'"),
        (dict(perturbation=dict(type='mmcert.CyclicTranslation', sigma=8.0)), 'SemanticTransform'),
        (
            dict(perturbation=dict(type='mmcert.TransformationCells', low=-1, high=1,
                                   transformation='rotation',
                                   noise=dict(type='GaussianNoise', sigma=0.1))),
            'SemanticTransform',
        ),
        (dict(perturbation=dict(type='mmcert.GaussianNoise', sigma=0.1), prob=1.2), 'prob'),
        (dict(perturbation=dict(type='mmcert.GaussianNoise', sigma=25)), '0-255 units'),
    ],
)  # fmt: skip
def test_perturbations_that_training_cannot_use_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        perturb(**arguments)


def test_a_surrogate_that_moves_labels_is_refused(tmp_path):
    save_surrogate(tmp_path / 'rotation.pth', model_of('rotation').surrogate)
    cfg = dict(type='mmcert.SurrogateTransform', surrogate=str(tmp_path / 'rotation.pth'),
               sigma1=0.1, sigma2=0.5)  # fmt: skip
    with pytest.raises(ValueError, match='moves the labels'):
        perturb(cfg)


def test_it_stands_in_a_pipeline_after_real_transformations(scenes_root, surrogate_file):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='mmcert.SemanticTransform', transformation='defocus_blur', values=[2]),
        dict(
            type='mmcert.PerturbImage',
            perturbation=dict(type='mmcert.SurrogateTransform', surrogate=str(surrogate_file),
                              sigma1=0.1, sigma2=0.5),
        ),
        dict(type='PackSegInputs'),
    ]  # fmt: skip
    dataset = StreetScenesDataset(
        split='val', num_images=2, size=SIZE, data_root=str(scenes_root), pipeline=pipeline
    )
    item = dataset[0]
    assert item['inputs'].dtype == torch.float32 and item['inputs'].shape == (3, *SIZE)
    assert item['data_samples'].gt_sem_seg.shape == SIZE


# --- pictures ---


@pytest.mark.parametrize('name', ['defocus_blur', 'motion_blur'])
def test_a_picture_shows_the_surrogate_beside_the_transformation(name):
    model, images = model_of(name), scenes(2)
    surrogate = model.surrogate
    parameters = surrogate.parameters_at(model.evenly_spaced(3))
    picture = compare_surrogate(surrogate, images, parameters, 0.5)
    height, width = SIZE[0] + TITLE_HEIGHT + GAP, SIZE[1] + GAP
    assert picture.dtype == np.uint8
    assert picture.shape == (2 * 3 * height, 4 * width, 3)

    def panel(row, column):
        top, left = row * height + TITLE_HEIGHT, column * width
        return picture[top : top + SIZE[0], left : left + SIZE[1]]

    def pixels(image):
        return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()

    np.testing.assert_array_equal(panel(3, 0), pixels(images[1]))
    real = surrogate.transformation(images[1:], parameters[2:])[0]
    np.testing.assert_array_equal(panel(3, 3), pixels(real))
    with torch.no_grad():
        made = surrogate(images[1:].expand(3, -1, -1, -1), surrogate.normalized(parameters))
    np.testing.assert_allclose(panel(4, 3), pixels(made[2]), atol=1)
    assert (panel(5, 0) == 255).all()
    # With noise it is another image.
    assert np.abs(panel(5, 3).astype(int) - panel(4, 3)).mean() > 1


# --- the tool ---


def tool_of(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool():
    return tool_of('train_surrogate')


@pytest.fixture
def tiny(tmp_path, scenes_root):
    """Writes a config like those of configs/surrogates, of drawn scenes and four iterations."""

    def write(name='config.py', **options):
        cfg = Config.fromfile(ROOT / 'configs/surrogates/defocus-blur_camvid-180x240.py')
        for part, images in (('train', 4), ('val', 3), ('test', 3)):
            loader = cfg[f'{part}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset = dict(
                type='mmcert.StreetScenesDataset',
                split=part,
                num_images=images,
                size=SIZE,
                data_root=str(scenes_root),
                pipeline=loader.dataset.pipeline,
            )
        cfg.train_dataloader.batch_size = 2
        cfg.model.surrogate.update(SMALL)
        cfg.model.data_preprocessor.size = SIZE
        cfg.train_cfg.update(max_iters=4, val_interval=4)
        cfg.default_hooks.checkpoint.interval = 2
        cfg.merge_from_dict(options)
        cfg.dump(tmp_path / name)
        return tmp_path / name

    return write


def call(tool, monkeypatch, *arguments):
    """Runs a tool in this process, which spares the imports."""
    monkeypatch.setattr('sys.argv', [tool.__name__, *map(str, arguments)])
    return tool.main()


def test_the_tool_leaves_a_surrogate_that_smoothing_takes(tiny, tmp_path):
    printed = run_tool('tools/train_surrogate.py', tiny(), '--work-dir', tmp_path / 'work')
    assert 'loss_displacement' in printed and 'surrogate/noisy_error' in printed
    surrogate = load_surrogate(tmp_path / 'work/surrogate.pth')
    weights = torch.load(tmp_path / 'work/iter_4.pth', weights_only=False)['state_dict']
    for name, value in surrogate.state_dict().items():
        assert torch.equal(value, weights[f'surrogate.{name}'])
    answer = json.loads((tmp_path / 'work/surrogate.json').read_text())
    assert answer['surrogate'] == surrogate.spec()
    assert answer['digest'] == surrogate.digest()
    assert (answer['sigma1'], answer['sigma2'], answer['images']) == (0.1, 0.5, 3)
    assert answer['attack'] == {'mode': 'finite', 'values': [1, 2, 3]}
    assert set(answer['held_out']) == {
        f'surrogate/{key}' for key in ('error', 'noisy_error', 'displacement_median',
                                       'displacement_q10', 'displacement_q90')
    }  # fmt: skip
    picture = cv2.imread(str(tmp_path / 'work/surrogate.png'))
    assert picture.shape == (
        6 * (SIZE[0] + TITLE_HEIGHT + GAP), 4 * (SIZE[1] + GAP), 3
    )  # fmt: skip
    # The certificate's displacement is what was reported of the held-out images.
    perturbation = SurrogateTransform(
        str(tmp_path / 'work/surrogate.pth'), 0.1, 0.5, answer['attack']
    )
    found = []
    for index in range(3):
        image = torch.from_numpy(draw_scene(*SIZE, (1, index))[0]).permute(2, 0, 1).float() / 255
        found.append(perturbation.input_threshold(image).details['displacement'])
    median = answer['held_out']['surrogate/displacement_median']
    assert np.median(found) == pytest.approx(median, rel=1e-5)


@pytest.fixture
def steps(monkeypatch):
    """Counts training steps; interrupts before the one that ``steps.stop_before`` numbers."""

    class Steps:
        done, stop_before = 0, None

    step = SurrogateModel.train_step

    def counted(self, *args, **kwargs):
        if Steps.done == Steps.stop_before:
            raise KeyboardInterrupt
        Steps.done += 1
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SurrogateModel, 'train_step', counted)
    return Steps


@pytest.fixture
def started(tiny, tmp_path):
    """A config that starts from weights of a longer training."""
    meta = {'iter': 900, 'epoch': 0}
    torch.save(
        {'state_dict': model_of().state_dict(), 'meta': meta, 'message_hub': {}},
        tmp_path / 'start.pth',
    )
    return tiny(load_from=str(tmp_path / 'start.pth'))


def test_an_interrupted_training_continues(tool, started, steps, tmp_path, monkeypatch, capsys):
    work = tmp_path / 'work'
    steps.stop_before = 3
    assert call(tool, monkeypatch, started, '--work-dir', work) == 130
    assert 'the same command with --resume continues' in capsys.readouterr().err
    assert not (work / 'surrogate.pth').exists()
    # A checkpoint is written every two iterations.
    steps.done, steps.stop_before = 0, None
    assert call(tool, monkeypatch, started, '--work-dir', work, '--resume', '--pictures', 0) == 0
    assert steps.done == 2
    assert load_surrogate(work / 'surrogate.pth')
    assert not (work / 'surrogate.png').exists()


def test_where_there_is_nothing_to_resume_training_begins(
    tool, started, steps, tmp_path, monkeypatch
):
    work = tmp_path / 'work'
    command = (started, '--work-dir', work, '--resume', '--pictures', 1)
    assert call(tool, monkeypatch, *command) == 0
    # mmengine would have taken the 900 iterations of load_from for done.
    assert steps.done == 4
    before = load_surrogate(work / 'surrogate.pth').digest()
    (work / 'surrogate.pth').unlink()
    # When all is done nothing is trained, and the results are written once more.
    assert call(tool, monkeypatch, *command) == 0
    assert steps.done == 4
    assert load_surrogate(work / 'surrogate.pth').digest() == before


def test_the_train_tool_resumes_from_its_own_folder_as_well(make_config, tmp_path, monkeypatch):
    cfg = make_config(
        **{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2},
        **{'default_hooks.checkpoint.interval': 2},
    )
    state = torch.load(cfg.load_from)
    state |= {'meta': {'iter': 5, 'epoch': 0}, 'message_hub': {}}
    torch.save(state, cfg.load_from)
    cfg.dump(tmp_path / 'config.py')
    work = tmp_path / 'tuned'
    command = (tmp_path / 'config.py', '--work-dir', work, '--resume')
    assert call(tool_of('train'), monkeypatch, *command) == 0
    assert (work / 'iter_2.pth').exists()


def test_weights_of_another_transformation_are_a_start(tmp_path, scenes_root, tiny):
    torch.save({'state_dict': model_of().state_dict()}, tmp_path / 'start.pth')
    config = Config.fromfile(tiny())
    config.work_dir, config.load_from = str(tmp_path / 'work'), str(tmp_path / 'start.pth')
    config.model.surrogate.update(transformation='motion_blur', low=[0, -90], high=[6, 90])
    config.model.attack = dict(values=[[2, 0]])
    config.experiment_name = 'another-transformation'
    runner = Runner.from_cfg(config)
    runner.load_or_resume()
    ours, theirs = runner.model.state_dict(), model_of().state_dict()
    differ = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert differ == {'surrogate.parameter_encoder.weight'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.attack': dict(values=[9])}, r'from \[0.0\] to \[3.0\], got \[9.0\]'),
        ({'model.sigma2': 0}, 'sigma2 must be positive'),
        (
            {'load_from': 'nowhere/iter_900.pth'},
            'no checkpoint nowhere/iter_900.pth; load_from names it',
        ),
    ],
)
def test_the_tool_says_what_is_wrong_with_a_config(
    tool, tiny, tmp_path, monkeypatch, capsys, options, message
):
    assert call(tool, monkeypatch, tiny(**options), '--work-dir', tmp_path / 'work') == 2
    error = capsys.readouterr().err
    assert re.search(f'^error: .*{message}', error, re.MULTILINE)


def test_the_tool_refuses_another_model(tool, make_config, tmp_path, monkeypatch, capsys):
    cfg = make_config()
    cfg.dump(tmp_path / 'segmentor.py')
    command = (tmp_path / 'segmentor.py', '--work-dir', tmp_path / 'work')
    assert call(tool, monkeypatch, *command) == 2
    assert 'must be an mmcert.SurrogateModel, got EncoderDecoder' in capsys.readouterr().err


def test_the_model_is_known_to_configs():
    surrogate = dict(transformation='jpeg', low=10, high=100, **SMALL)
    model = MODELS.build(
        dict(type='mmcert.SurrogateModel', surrogate=surrogate, sigma1=0.1, sigma2=0.5,
             attack=dict(values=[50]))
    )  # fmt: skip
    assert isinstance(model.surrogate, Surrogate)
