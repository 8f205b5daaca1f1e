"""The main path: a config, a checkpoint, ``smoothing=dict(...)``."""

import json
import logging
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop

from mmcert.certifier import certifier, entries
from mmcert.certify import InfeasiblePlanError
from mmcert.engine import SmoothingConfig
from mmcert.engine.pipeline import require_unaltered_images
from mmcert.engine.weights import CheckpointMismatchError
from mmcert.models import SmoothedSegmentor
from mmcert.sampling import SegmentorOutputError
from mmcert.votes import FingerprintError, VotesFileError, load_votes, save_votes
from tests.openmmlab import run_test

EXPECTED = {
    'certAcc', 'mIoU', 'mIoU_paper', 'abstain', 'abstain_valid', 'certified_share', 'radius',
    'base_aAcc', 'base_mIoU', 'smoothed_aAcc', 'smoothed_mIoU', 'worst_mIoU', 'draws',
}  # fmt: skip


def votes_files(folder):
    """The votes files below a folder; maps beside them have the same ending."""
    return {
        path.name: path.read_bytes()
        for path in folder.rglob('*.npz')
        if not path.parent.name.startswith(('certificates', 'confidence'))
    }


def test_a_test_run_reports_certified_metrics_beside_the_ordinary_ones(make_config, tmp_path):
    metrics = run_test(make_config())
    certified = {k.split('/')[1] for k in metrics if k.startswith('certified/')}
    assert certified == EXPECTED
    assert 'mIoU' in metrics
    assert metrics['certified/radius'] == pytest.approx(0.25 * 0.2533471031357997)
    assert metrics['certified/draws'] == 44
    for name in EXPECTED - {'radius', 'draws'}:
        assert 0 <= metrics[f'certified/{name}'] <= 1
    # mmseg's metric rounds per cent to two decimals; it judges the smoothed model's classes.
    assert metrics['aAcc'] == pytest.approx(100 * metrics['certified/smoothed_aAcc'], abs=0.01)


def test_metrics_reach_the_logs_unrounded(make_config, tmp_path):
    metrics = run_test(make_config())
    (log,) = (tmp_path / 'work').glob('2*/*.json')
    assert json.loads(log.read_text())['certified/certAcc'] == metrics['certified/certAcc']
    scalars = [json.loads(line) for f in tmp_path.rglob('scalars.json') for line in f.open()]
    assert [line['certified/certAcc'] for line in scalars] == [metrics['certified/certAcc']]
    text = (tmp_path / 'work/certified/summary.json').read_text()
    summary = json.loads(text, parse_constant=pytest.fail)  # NaN is not JSON
    assert summary['rates']['certAcc'] == metrics['certified/certAcc']
    assert summary['certificate']['kind'] == 'certificate'
    images = [json.loads(line) for line in (tmp_path / 'work/certified/images.jsonl').open()]
    assert len(images) == 2
    pooled = sum(row['certified'] for row in images) / sum(row['components'] for row in images)
    assert pooled == pytest.approx(metrics['certified/certified_share'])


def test_certificates_on_disk_carry_mask_and_terms(make_config, tmp_path):
    run_test(make_config(smoothing=dict(draw_every=2)))
    folder = tmp_path / 'work/certified'
    (votes,) = folder.glob('votes-*')
    (certificates,) = folder.glob('certificates-*')
    assert len(list(folder.glob('vis-*/*.png'))) == 1
    for file in votes.iterdir():
        record = load_votes(file)
        labels = cv2.imread(str(certificates / f'{file.stem}.png'), cv2.IMREAD_UNCHANGED)
        statement = entries(json.loads((certificates / f'{file.stem}.json').read_text()))
        assert (labels != 254).sum() == statement['certified']
        np.testing.assert_array_equal(labels[labels != 254], record.votes.guess[labels != 254])
        for key in ('tau', 'alpha', 'n', 'n0', 'procedure', 'seed', 'radius', 'norm', 'unit'):
            assert key in statement
        assert statement['input'] == record.meta['digest']
        assert statement['model']['weights'] == record.meta['sampling']['weights']
        assert 'torch' in statement['model']['versions']
        assert statement['certified_space'] == 'the original image'
        assert record.meta['sampling']['perturbation'] == {'type': 'GaussianNoise', 'sigma': 0.25}
        assert 'torch' in record.meta['provenance']['versions']


@pytest.mark.parametrize('batch_size', [1, 5, 64])
def test_votes_are_identical_for_any_batch_size(make_config, tmp_path, batch_size):
    run_test(make_config(smoothing=dict(votes_dir=str(tmp_path / 'a'), batch_size=8)))
    run_test(make_config(smoothing=dict(votes_dir=str(tmp_path / 'b'), batch_size=batch_size)))
    assert votes_files(tmp_path / 'a') == votes_files(tmp_path / 'b')


class Interrupt(Hook):
    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise KeyboardInterrupt


def test_an_interrupted_run_continues_with_the_missing_images(make_config, tmp_path, monkeypatch):
    whole = make_config(images=3, smoothing=dict(votes_dir=str(tmp_path / 'whole')))
    expected = run_test(whole)

    cfg = make_config(images=3, smoothing=dict(votes_dir=str(tmp_path / 'parts')))
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        runner.test()
    assert len(votes_files(tmp_path / 'parts')) == 1

    sampled = []
    collect = certifier.collect_votes
    monkeypatch.setattr(
        certifier,
        'collect_votes',
        lambda *args, **kwargs: sampled.append(1) or collect(*args, **kwargs),
    )
    assert run_test(cfg) == expected
    assert len(sampled) == 2
    assert votes_files(tmp_path / 'parts') == votes_files(tmp_path / 'whole')


def test_votes_answer_another_tau_without_sampling(make_config, tmp_path, monkeypatch):
    loose = run_test(make_config())
    monkeypatch.setattr(certifier, 'collect_votes', None)
    strict = run_test(make_config(smoothing=dict(tau=0.7, procedure='bonferroni')))
    assert strict['certified/radius'] > loose['certified/radius']
    assert strict['certified/abstain'] >= loose['certified/abstain']


@pytest.mark.parametrize(
    'change', [dict(sigma=0.3), dict(seed=1), dict(n=41), dict(n0=5), dict(flip=True)]
)
def test_votes_sampled_otherwise_are_refused(make_config, tmp_path, change):
    votes = dict(votes_dir=str(tmp_path / 'votes'))
    run_test(make_config(images=1, smoothing=votes))
    before = votes_files(tmp_path / 'votes')
    with pytest.raises(FingerprintError, match=f'{next(iter(change))}'):
        run_test(make_config(images=1, smoothing=votes | change))
    assert votes_files(tmp_path / 'votes') == before


def test_votes_of_other_weights_are_refused(make_config, tmp_path):
    cfg = make_config(images=1, smoothing=dict(votes_dir=str(tmp_path / 'votes')))
    run_test(cfg)
    state = torch.load(cfg.load_from)
    state['state_dict']['decode_head.conv_seg.bias'] += 1
    torch.save(state, cfg.load_from)
    with pytest.raises(FingerprintError, match='weights'):
        run_test(cfg)


def test_votes_of_another_normalisation_are_refused(make_config, tmp_path):
    # mmengine takes a top-level data_preprocessor into the model by itself.
    cfg = make_config(images=1, smoothing=dict(votes_dir=str(tmp_path / 'votes')))
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    run_test(cfg)
    cfg.data_preprocessor.mean = [100.0, 100.0, 100.0]
    with pytest.raises(FingerprintError, match='weights'):
        run_test(cfg)


def test_votes_of_averaged_weights_are_not_those_of_the_raw_ones(make_config, tmp_path):
    votes = dict(votes_dir=str(tmp_path / 'votes'), strict_weights=False)
    cfg = make_config(images=1, smoothing=votes)
    run_test(cfg)
    runner = Runner.from_cfg(make_config(images=1, smoothing=votes, experiment_name='averaged'))
    ema = EMAHook()
    runner.register_hook(ema)

    class Move(Hook):
        priority = 'HIGHEST'

        def before_test(self, runner):
            ema.ema_model.module.decode_head.conv_seg.bias.data += 1

    runner.register_hook(Move())
    with pytest.raises(FingerprintError, match='weights'):
        runner.test()


def test_votes_of_another_split_do_not_mix(make_config, tmp_path):
    votes = dict(votes_dir=str(tmp_path / 'votes'))
    run_test(make_config(images=1, smoothing=votes))
    run_test(make_config(images=1, smoothing=votes | dict(votes_dir='auto')))
    cfg = make_config(images=1, smoothing=votes | dict(votes_dir='auto'))
    cfg.test_dataloader.dataset.split = 'val'
    run_test(cfg)
    assert len(list((tmp_path / 'work/certified').glob('votes-*'))) == 2


def test_changed_annotations_reach_the_stored_votes(make_config, tmp_path):
    cfg = make_config(images=1, smoothing=dict(votes_dir=str(tmp_path / 'votes')))
    run_test(cfg)
    (file,) = (tmp_path / 'votes').iterdir()
    record = load_votes(file)
    save_votes(file, replace(record, label=record.label * 0))
    expected = run_test(cfg)
    np.testing.assert_array_equal(load_votes(file).label, record.label)
    assert expected['certified/certAcc'] == run_test(cfg)['certified/certAcc']


def test_a_corrupt_votes_file_stops_the_run_and_loses_nothing(make_config, tmp_path):
    cfg = make_config(smoothing=dict(votes_dir=str(tmp_path / 'votes')))
    run_test(cfg)
    expected = votes_files(tmp_path / 'votes')
    damaged = sorted((tmp_path / 'votes').iterdir())[1]
    damaged.write_bytes(b'PK')
    with pytest.raises(VotesFileError, match=damaged.name):
        run_test(cfg)
    damaged.unlink()
    run_test(cfg)
    assert votes_files(tmp_path / 'votes') == expected


def test_no_votes_are_kept_on_request(make_config, tmp_path):
    run_test(make_config(smoothing=dict(votes_dir=None)))
    assert not votes_files(tmp_path)


def test_the_base_model_is_back_after_the_test(make_config):
    runner = Runner.from_cfg(make_config())
    base, metrics = runner.model, len(runner.cfg.test_evaluator)
    first = runner.test()
    assert runner.model is base
    assert not isinstance(runner.model, SmoothedSegmentor)
    assert runner.test() == first
    assert metrics == len(runner.cfg.test_evaluator)


def test_training_with_the_hook_in_the_config_is_untouched(make_config):
    cfg = make_config(**{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'load_from': None})
    cfg.load_from = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert not isinstance(runner.model, SmoothedSegmentor)
    # The model trained here is what the same runner then certifies.
    assert 'certified/certAcc' in runner.test()


@pytest.mark.parametrize(
    ('smoothing', 'message'),
    [
        (dict(sigm=0.25), 'unknown key in `smoothing`: sigm. Legal keys: sigma, perturbation, tau'),
        (dict(sigma=None), 'either sigma .* or perturbation'),
        (dict(perturbation=dict(type='mmcert.GaussianNoise', sigma=1)), 'not both'),
        (dict(sigma=0), 'sigma must be positive'),
        (dict(sigma=64), '0-255 units'),
        (dict(tau=0.3), r'tau must lie in \[0.5, 1\)'),
        (dict(tau=1), 'tau must lie'),
        (dict(alpha=1), 'alpha must lie'),
        (dict(n=0), 'n must be an integer'),
        (dict(n0=0), 'n0 must be an integer'),
        (dict(batch_size=0), 'batch_size must be'),
        (dict(procedure='fdr'), "unknown procedure 'fdr'; legal: bonferroni, holm"),
        (dict(space='crop'), 'space must be one of original, model'),
        (dict(scales=0), 'scales must be numbers in'),
        (dict(scales=[]), 'scales must be numbers in'),
        (dict(flip='yes'), 'flip must be True or False'),
        (dict(draw_every=-1), 'draw_every'),
    ],
)
def test_a_bad_smoothing_is_refused_before_anything_is_loaded(make_config, smoothing, message):
    cfg = make_config(smoothing=smoothing)
    cfg.load_from = '/nowhere/missing.pth'
    with pytest.raises(ValueError, match=message):
        run_test(cfg)


def test_the_hook_without_smoothing_says_what_to_add(make_config):
    cfg = make_config()
    cfg.pop('smoothing')
    with pytest.raises(ValueError, match='but no `smoothing`; add'):
        run_test(cfg)


def test_the_long_form_of_sigma_is_the_same_perturbation(make_config, tmp_path):
    run_test(make_config(images=1, smoothing=dict(votes_dir=str(tmp_path / 'a'))))
    long = dict(sigma=None, perturbation=dict(type='mmcert.GaussianNoise', sigma=0.25))
    run_test(make_config(images=1, smoothing=long | dict(votes_dir=str(tmp_path / 'b'))))
    assert votes_files(tmp_path / 'a') == votes_files(tmp_path / 'b')


@pytest.mark.parametrize(
    'perturbation',
    [
        dict(type='mmcert.GaussianBlur', law=dict(type='Exponential', mean=2.0)),
        dict(type='mmcert.BrightnessContrast', sigma_k=0.2, sigma_b=0.2),
        dict(type='mmcert.LaplaceNoise', b=0.2),
    ],
    ids=lambda cfg: cfg['type'].split('.')[1],
)
def test_semantic_perturbations_are_certified_from_a_config(make_config, tmp_path, perturbation):
    run_test(make_config(images=1, smoothing=dict(sigma=None, perturbation=perturbation)))
    (file,) = (tmp_path / 'work' / 'certified').glob('certificates-*/*.json')
    statement = entries(json.loads(file.read_text()))
    built = SmoothingConfig.from_cfg(dict(perturbation=perturbation)).plan().perturbation
    for key, value in built.guarantee(0.6).to_dict().items():
        assert statement[key] == json.loads(json.dumps(value)), key
    assert statement['components'] == 32 * 48


def test_too_few_draws_are_refused_before_sampling(make_config, tmp_path):
    with pytest.raises(InfeasiblePlanError, match='smallest n that can is 20'):
        run_test(make_config(smoothing=dict(tau=0.5, n=5, alpha=0.002)))
    assert not votes_files(tmp_path)


@pytest.mark.parametrize('damage', ['missing', 'unexpected', 'shape'])
def test_a_checkpoint_of_another_model_is_refused(make_config, damage):
    cfg = make_config()
    state = torch.load(cfg.load_from)
    weights = state['state_dict']
    if damage == 'missing':
        del weights['decode_head.conv_seg.bias']
    elif damage == 'unexpected':
        weights['neck.weight'] = torch.zeros(1)
    else:
        weights['decode_head.conv_seg.bias'] = torch.zeros(3)
    torch.save(state, cfg.load_from)
    words = {'missing': 'missing decode_head.conv_seg.bias', 'unexpected': 'unexpected neck.weight',
             'shape': r'has shape \(3,\), the model \(8,\)'}  # fmt: skip
    with pytest.raises(CheckpointMismatchError, match=words[damage]):
        run_test(cfg)
    if damage != 'shape':
        cfg.smoothing.strict_weights = False
        assert 'certified/certAcc' in run_test(cfg)


def test_initial_weights_are_not_certified_by_accident(make_config):
    cfg = make_config()
    cfg.load_from = None
    with pytest.raises(CheckpointMismatchError, match='no checkpoint was loaded'):
        run_test(cfg)


def test_a_model_that_returns_nan_is_refused(make_config, tmp_path):
    cfg = make_config()
    state = torch.load(cfg.load_from)
    state['state_dict']['decode_head.conv_seg.bias'][3] = float('nan')
    torch.save(state, cfg.load_from)
    with pytest.raises(SegmentorOutputError, match='returned NaN'):
        run_test(cfg)
    assert not votes_files(tmp_path)


def test_a_model_wrapped_for_test_time_augmentation_is_refused(make_config):
    cfg = make_config(smoothing=dict(strict_weights=False))
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    with pytest.raises(TypeError, match=r'smoothing\.scales and smoothing\.flip instead'):
        run_test(cfg)


def test_a_depth_estimator_is_refused(make_config):
    cfg = make_config(smoothing=dict(strict_weights=False))
    cfg.model.type = 'DepthEstimator'
    with pytest.raises(TypeError, match='predicts depth, not classes'):
        run_test(cfg)


def test_an_unwritable_votes_folder_is_refused_before_sampling(make_config, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'cannot be written.*another folder.*`smoothing\.votes_dir`'):
        run_test(make_config(smoothing=dict(votes_dir=str(tmp_path / 'file/votes'))))


def test_labels_out_of_range_are_named_and_the_votes_kept(make_config, tmp_path):
    cfg = make_config(images=1, smoothing=dict(votes_dir=str(tmp_path / 'votes')))
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='LoadWrongLabels'),
        dict(type='PackSegInputs'),
    ]
    with pytest.raises(ValueError, match='label .* out of range: found 17, but there are 8'):
        run_test(cfg)
    assert len(votes_files(tmp_path / 'votes')) == 1


def test_a_resize_in_the_pipeline_must_be_owned_up_to(make_config):
    cfg = make_config(images=1)
    resize = dict(type='Resize', scale=(64, 32), keep_ratio=False)
    cfg.test_dataloader.dataset.pipeline.insert(1, resize)
    with pytest.raises(ValueError, match=r"smoothing\.scales.*smoothing\.space='model'"):
        run_test(cfg)
    cfg.smoothing.space = 'model'
    assert 'certified/certAcc' in run_test(cfg)


def test_a_pipeline_that_alters_the_image_must_be_owned_up_to(make_config):
    cfg = make_config(images=1)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='AdjustGamma', gamma=3.0))
    with pytest.raises(ValueError, match=r"has AdjustGamma, which may alter.*space='model'"):
        run_test(cfg)
    cfg.smoothing.space = 'model'
    assert 'certified/certAcc' in run_test(cfg)


def test_a_resize_there_and_back_is_not_the_original_image(make_config):
    cfg = make_config(images=1)
    for step in (
        dict(type='Resize', scale=(48, 32)),
        dict(type='ResizeShortestEdge', scale=16, max_size=64),
    ):
        cfg.test_dataloader.dataset.pipeline.insert(1, step)
    with pytest.raises(ValueError, match='has .*, which may alter'):
        run_test(cfg)


def test_a_pipeline_that_cannot_be_seen_is_not_trusted():
    with pytest.raises(ValueError, match="pipeline of object cannot be seen.*space='model'"):
        require_unaltered_images(object())


def test_wrapped_data_sets_are_looked_into(make_config):
    cfg = make_config(images=1)
    inner = cfg.test_dataloader.dataset
    inner.pipeline.insert(1, dict(type='AdjustGamma', gamma=3.0))
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    with pytest.raises(ValueError, match='has AdjustGamma'):
        run_test(cfg)


def test_a_fine_tuned_model_may_start_from_another_one(make_config):
    cfg = make_config(**{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2})
    state = torch.load(cfg.load_from)
    del state['state_dict']['decode_head.conv_seg.weight']
    torch.save(state, cfg.load_from)
    cfg.experiment_name = 'fine-tuned'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 'certified/certAcc' in runner.test()


def test_a_resize_to_the_same_size_is_no_change(make_config):
    cfg = make_config(images=1)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(48, 32)))
    assert (
        run_test(cfg)['certified/abstain'] == run_test(make_config(images=1))['certified/abstain']
    )


def test_a_checkpoint_without_weights_is_refused(make_config):
    cfg = make_config()
    state = torch.load(cfg.load_from)['state_dict']
    torch.save({'model': state, 'epoch': 3}, cfg.load_from)
    with pytest.raises(CheckpointMismatchError, match='missing backbone'):
        run_test(cfg)
    torch.save(state, cfg.load_from)
    assert 'certified/certAcc' in run_test(cfg)


def test_a_runner_can_test_again_after_a_refused_one(make_config, tmp_path):
    (tmp_path / 'file').touch()
    runner = Runner.from_cfg(
        make_config(experiment_name='refused', smoothing=dict(votes_dir=str(tmp_path / 'file')))
    )
    for _ in range(2):
        with pytest.raises(OSError, match='cannot be written'):
            runner.test()
    assert not isinstance(runner.model, SmoothedSegmentor)


def test_a_runner_can_test_again_after_a_broken_off_test(make_config):
    runner = Runner.from_cfg(make_config(experiment_name='again'))
    interrupt = Interrupt()
    runner.register_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.test()
    runner._hooks.remove(interrupt)
    assert 'certified/certAcc' in runner.test()
    assert not isinstance(runner.model, SmoothedSegmentor)


def test_results_in_model_space_say_so(make_config, tmp_path):
    cfg = make_config(images=1, smoothing=dict(space='model'))
    run_test(cfg)
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    assert 'does not transfer to the original image' in summary['certificate']['certified_space']


def test_batches_of_the_test_loader_do_not_matter(make_config, tmp_path):
    run_test(make_config(images=3, smoothing=dict(votes_dir=str(tmp_path / 'a'))))
    cfg = make_config(images=3, smoothing=dict(votes_dir=str(tmp_path / 'b')))
    cfg.test_dataloader.batch_size = 2
    run_test(cfg)
    assert votes_files(tmp_path / 'a') == votes_files(tmp_path / 'b')


def test_the_prediction_on_the_clean_image_is_the_stock_one(make_config):
    cfg = make_config()
    smoothed = run_test(cfg)
    cfg.pop('smoothing')
    cfg.default_hooks.pop('smoothing')
    stock = run_test(cfg)
    assert stock['aAcc'] == pytest.approx(100 * smoothed['certified/base_aAcc'], abs=0.01)
    assert stock['mIoU'] == pytest.approx(100 * smoothed['certified/base_mIoU'], abs=0.01)


def test_progress_is_logged_for_every_image(make_config, caplog):
    runner = Runner.from_cfg(make_config(images=2))
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        runner.test()
    assert 'certified 1/2 batches' in caplog.text
    assert 'so far certified accuracy' in caplog.text


def test_pixel_samples_are_never_abstain_in_the_smoothed_prediction(make_config):
    seen = []

    class Look(Hook):
        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.extend(outputs)

    runner = Runner.from_cfg(make_config())
    runner.register_hook(Look())
    runner.test()
    for sample in seen:
        assert sample.pred_sem_seg.data.max() < 8
        labels = sample.cert_sem_seg.data
        assert ((labels == 254) | (labels == sample.pred_sem_seg.data)).all()


def test_votes_stored_under_the_name_of_another_image_are_refused(make_config, tmp_path):
    cfg = make_config(smoothing=dict(votes_dir=str(tmp_path / 'votes')))
    run_test(cfg)
    first, second = sorted((tmp_path / 'votes').iterdir())
    second.write_bytes(first.read_bytes())
    with pytest.raises(VotesFileError, match=f'{second.stem} are of another image'):
        run_test(cfg)


def test_certificates_of_found_votes_are_the_same_files(make_config, tmp_path):
    def files():
        folder = tmp_path / 'work/certified'
        return {path.name: path.read_bytes() for path in folder.rglob('*.json')}

    run_test(make_config())
    first = files()
    assert len(first) > 2
    run_test(make_config())
    assert files() == first


def test_reduce_zero_label_shifts_what_is_certified_against(make_config):
    cfg = make_config(images=1)
    cfg.test_dataloader.dataset.reduce_zero_label = True
    cfg.test_dataloader.dataset.pipeline[1].reduce_zero_label = True
    reduced = run_test(cfg)
    assert 0 <= reduced['certified/certAcc'] <= 1
    plain = run_test(make_config(images=1))
    assert reduced['certified/abstain'] == plain['certified/abstain']
    assert reduced['certified/certAcc'] != plain['certified/certAcc']


@LOOPS.register_module(force=True)
class HalfLoop(TestLoop):
    def __init__(self, *args, fp16=True, **options):
        super().__init__(*args, fp16=fp16, **options)


@LOOPS.register_module(force=True)
class OwnAutocastLoop(TestLoop):
    @torch.no_grad()
    def run_iter(self, idx, data_batch):
        with torch.autocast('cpu', torch.bfloat16):
            self.runner.model.test_step(data_batch)


def test_the_arithmetic_of_a_loop_of_the_users_own_is_named(make_config, tmp_path):
    run_test(make_config(images=1, test_cfg=dict(type='HalfLoop', _delete_=True)))
    (file,) = (tmp_path / 'work' / 'certified').glob('votes-*/*.npz')
    meta = load_votes(file).meta
    assert meta['sampling']['fp16'] and meta['precision']['precision'] == 'bfloat16'
    with pytest.raises(ValueError, match='has fp16=False, but computes under autocast to torch.bf'):
        run_test(make_config(images=1, test_cfg=dict(type='OwnAutocastLoop', _delete_=True)))
