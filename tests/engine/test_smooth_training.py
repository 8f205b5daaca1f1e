"""Recipes train through mmengine's runner, and leave plain segmentors."""

import contextlib
import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner

from mmcert.engine import SmoothTraining
from tests.openmmlab import _runs, run_tool

RECIPES = {
    'noise': dict(sigma=(0.1, 0.3), copies=2, prob=0.9, warmup=2),
    'scale': dict(sigma=0.25, scale=0.5),
    'pooled': dict(perturbation=dict(type='mmcert.PooledNoise', factor=4, sigma=0.1), copies=2),
    'consistency': dict(sigma=0.25, copies=2, objectives=['mmcert.Consistency']),
    'smoothadv': dict(
        sigma=0.25, copies=2, objectives=[dict(type='mmcert.SmoothAdv', epsilon=0.5, warmup=3)]
    ),
    'catrs': dict(sigma=0.25, copies=3, objectives=['mmcert.CATRS']),
    'distillation': dict(
        sigma=0.25,
        copies=2,
        scale=0.5,
        objectives=[
            dict(type='mmcert.Distillation', teacher=dict(scale=0.5)),
            'mmcert.Consistency',
        ],
    ),
}
LOSSES = {
    'consistency': {'loss_consistency', 'loss_entropy', 'decode.loss_ce'},
    'catrs': {'loss_low', 'loss_high'},
    'distillation': {'loss_distillation', 'loss_consistency', 'decode.loss_ce'},
}


@OPTIM_WRAPPERS.register_module(force=True)
class AutocastOnCpu(OptimWrapper):
    """What mmengine's AmpOptimWrapper does, which refuses to run without a GPU."""

    @contextlib.contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


@pytest.fixture
def make_training(make_config):
    """Builds a runner that trains a small segmentor for two steps under a recipe."""

    def make(recipe, iterations=2, **options):
        cfg = make_config()
        teacher = cfg.load_from
        cfg.pop('smoothing')
        cfg.default_hooks.pop('smoothing')
        cfg.model.data_preprocessor = dict(
            type='SegDataPreProcessor', mean=[120.0] * 3, std=[58.0, 57.0, 56.0],
            bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=(64, 96),
        )  # fmt: skip
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=100)
        cfg.param_scheduler = None
        cfg.default_hooks.checkpoint.update(interval=iterations)
        cfg.default_hooks.logger.update(interval=1)
        cfg.custom_hooks = [dict(type='mmcert.SmoothTraining', **copy.deepcopy(recipe))]
        cfg.merge_from_dict(options)
        for objective in cfg.custom_hooks[0].get('objectives', ()):
            if 'teacher' in objective:
                cfg.dump(f'{cfg.work_dir}-teacher.py')
                path = {'config': f'{cfg.work_dir}-teacher.py', 'checkpoint': teacher}
                objective.teacher.update(path)
        cfg.experiment_name = f'train-{next(_runs)}'
        cfg.visualizer.name = cfg.experiment_name
        return Runner.from_cfg(cfg)

    return make


def logged(runner):
    return set(runner.message_hub.log_scalars)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_trains_and_leaves_a_plain_segmentor(name, make_training):
    runner = make_training(RECIPES[name])
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    assert 'loss' not in vars(runner.model)
    assert {f'train/{loss}' for loss in LOSSES.get(name, ())} <= logged(runner)
    assert ('train/decode.loss_ce' in logged(runner)) == (name != 'catrs')
    saved = torch.load(f'{runner.work_dir}/iter_2.pth', weights_only=False)['state_dict']
    assert saved.keys() == before.keys()
    assert any(not torch.equal(saved[key], before[key]) for key in before)
    assert all(torch.isfinite(value).all() for value in saved.values())


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_goes_with_mixed_precision_accumulation_ema_and_resuming(name, make_training):
    amp = {
        'optim_wrapper.type': 'AutocastOnCpu',
        'optim_wrapper.accumulative_counts': 2,
        'custom_hooks': [
            dict(type='mmcert.SmoothTraining', **RECIPES[name]),
            dict(type='EMAHook', momentum=0.1),
        ],
    }
    runner = make_training(RECIPES[name], **amp)
    runner.train()
    saved = torch.load(f'{runner.work_dir}/iter_2.pth', weights_only=False)
    assert saved['state_dict'].keys() == runner.model.state_dict().keys()
    resumed = make_training(
        RECIPES[name], iterations=3, resume=True, load_from=f'{runner.work_dir}/iter_2.pth', **amp
    )
    resumed.train()
    assert resumed.iter == 3
    assert all(torch.isfinite(value).all() for value in resumed.model.state_dict().values())


def test_the_same_seed_gives_the_same_weights(make_training):
    ends = []
    for seed in (0, 0, 1):
        runner = make_training(RECIPES['consistency'], **{'randomness.seed': seed})
        runner.train()
        ends.append(torch.cat([p.flatten() for p in runner.model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_model_sees_noise_at_the_size_it_is_trained_at(make_training):
    runner = make_training(RECIPES['scale'], iterations=1)
    seen, labels = [], []
    runner.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head = runner.model.decode_head
    own = head._stack_batch_gt
    head._stack_batch_gt = lambda samples: labels.append(own(samples)) or labels[-1]
    runner.train()
    assert tuple(seen[0].shape) == (2, 3, 32, 48)
    assert tuple(labels[0].shape) == (2, 1, 32, 48)
    # Padding is no class, and the labels above it are those of the pixels there.
    assert (labels[0][:, :, 16:] == 255).all()
    assert (labels[0][:, :, :16] < 255).any()
    # 32 rows of padding, 16 of them after resizing, without noise.
    assert (seen[0][:, :, 17:] == 0).all()
    assert (seen[0][:, :, :15].flatten(1).std(dim=1) > 0.5).all()


def test_what_cannot_be_trained_is_refused(make_training):
    with pytest.raises(ValueError, match='scale'):
        SmoothTraining(sigma=0.25, scale=0)
    with pytest.raises(ValueError, match='has no'):
        SmoothTraining(perturbation=dict(type='mmcert.PooledNoise', factor=4, sigmas=0.1))
    with pytest.raises(ValueError, match='two objectives'):
        make_training(
            dict(sigma=0.25, copies=2, objectives=['mmcert.Consistency', 'mmcert.Consistency'])
        ).train()
    runner = make_training(RECIPES['noise'])
    runner.model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match='got Linear'):
        next(h for h in runner.hooks if isinstance(h, SmoothTraining)).before_train(runner)


def test_the_attack_leaves_no_trace_in_the_model(make_training):
    runner = make_training(RECIPES['smoothadv'], iterations=1)
    norm = next(m for m in runner.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen, untouched = [], []

    def watch(module, inputs):
        untouched.extend(parameter.grad is None for parameter in runner.model.parameters())
        seen.append((module.training, int(module.num_batches_tracked)))

    norm.register_forward_pre_hook(watch)
    runner.train()
    # Two passes of the attack as in testing, then that of training, which alone is counted.
    assert seen[:3] == [(False, 0), (False, 0), (True, 0)]
    assert int(norm.num_batches_tracked) == 1
    assert all(untouched[: 3 * len(list(runner.model.parameters()))])


def test_the_teacher_is_not_trained(make_training):
    runner = make_training(RECIPES['distillation'])
    runner.train()
    hook = next(h for h in runner.hooks if isinstance(h, SmoothTraining))
    teacher = hook.objectives[0].teacher
    start = torch.load(f'{runner.work_dir}/../model.pth', weights_only=False)['state_dict']
    assert teacher.state_dict().keys() == start.keys()
    assert all(torch.equal(value, start[key]) for key, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())


def test_a_model_without_normalisation_trains(make_training):
    plain = dict(_delete_=True, type='SegDataPreProcessor', size=(64, 96))
    runner = make_training(RECIPES['consistency'], **{'model.data_preprocessor': plain})
    seen = []
    runner.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    runner.train()
    copies = seen[0].unflatten(0, (2, 2))
    # Noise in 0-255; the images themselves are the same in both copies.
    level = (copies[0] - copies[1])[:, :, :32, :48].std().item()
    assert level == pytest.approx(2**0.5 * 0.25 * 255, rel=0.1)


@pytest.fixture
def run_of(tmp_path, caplog):
    """Makes a runner of what the hook looks at, and a function that returns what it logged."""
    caplog.set_level(logging.INFO)
    (tmp_path / 'last_checkpoint').write_text('work/iter_2.pth\n')

    def make(**config):
        (tmp_path / 'mine.py').touch()
        cfg = Config(config, filename=tmp_path / 'mine.py')
        return SimpleNamespace(work_dir=tmp_path, cfg=cfg, logger=logging.getLogger('training'))

    return make, lambda: [record.message for record in caplog.records]


@pytest.mark.parametrize(
    'recipe, config, options',
    [
        (dict(sigma=0.25), {}, ' --cfg-options smoothing.sigma=0.25'),
        (RECIPES['scale'], {}, ' --cfg-options smoothing.sigma=0.25 smoothing.scales=0.5'),
        (RECIPES['scale'], dict(smoothing=dict(sigma=0.25, scales=0.5)), ''),
        (RECIPES['noise'], {}, None),
    ],
)
def test_a_training_ends_with_the_command_that_certifies(run_of, tmp_path, recipe, config, options):
    make, logged_lines = run_of
    hook = SmoothTraining(**recipe)
    hook._model = SimpleNamespace()
    hook.after_train(make(**config))
    command = f'to certify it: mmcert test {tmp_path}/mine.py work/iter_2.pth'
    assert logged_lines() == ([] if options is None else [command + options])


@pytest.mark.parametrize(
    'smoothing, warned',
    [
        (None, False),
        (dict(sigma=0.25), True),
        (dict(sigma=0.25, scales=0.5), False),
        (dict(sigma=0.25, scales=(0.5, 0.75)), False),
        (dict(sigma=0.25, scales=(1.0,)), True),
    ],
)
def test_a_test_at_another_scale_than_the_training_warns(run_of, smoothing, warned):
    make, logged_lines = run_of
    SmoothTraining(**RECIPES['scale']).before_test_epoch(make(smoothing=smoothing))
    assert [('smoothing.scales=0.5' in line) for line in logged_lines()] == [True] * warned


@pytest.mark.slow
def test_two_processes_train_one_model_with_all_objectives(make_training, tmp_path):
    objectives = [
        dict(type='mmcert.SmoothAdv', epsilon=0.5),
        'mmcert.Consistency',
        'mmcert.CATRS',
    ]
    runner = make_training(dict(sigma=0.25, copies=2, objectives=objectives))
    cfg, start = runner.cfg, torch.load(runner._load_from, weights_only=False)['state_dict']
    cfg.work_dir = str(tmp_path / 'both')
    cfg.dump(tmp_path / 'config.py')
    printed = run_tool(
        '-m', 'torch.distributed.run', '--nproc-per-node=2', '--master-port=29547',
        'tools/train.py', tmp_path / 'config.py', '--launcher=pytorch',
    )  # fmt: skip
    assert 'loss_consistency' in printed
    saved = torch.load(tmp_path / 'both/iter_2.pth', weights_only=False)['state_dict']
    assert saved.keys() == start.keys()
    assert any(not torch.equal(saved[key], start[key]) for key in start)
