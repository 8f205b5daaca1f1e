"""How sure the smoothed model is: in files, in data samples, and in visualisation backends."""

import json

import cv2
import numpy as np
import pytest
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from mmcert.perturbations import GaussianNoise
from mmcert.votes import load_votes
from mmcert.votes.confidence import KINDS, confidence_maps
from tests.openmmlab import run_test

FIELDS = {
    'vote_share': 'vote_share',
    'lower_bound': 'cert_lower_bound',
    'radius': 'cert_radius',
    'runner_up': 'runner_up_sem_seg',
    'runner_up_share': 'runner_up_share',
}


@METRICS.register_module(force=True)
class KeepsSamples(BaseMetric):
    """What a user's own metric gets."""

    default_prefix = 'kept'
    seen = []

    def process(self, data_batch, data_samples):
        self.results.append(0)
        self.seen.extend(data_samples)

    def compute_metrics(self, results):
        return {'samples': len(results)}


def with_visualizer(cfg, kind, *backends):
    cfg.visualizer = dict(type=kind, vis_backends=[dict(type=name) for name in backends])
    # mmsegmentation's own hook draws as well.
    cfg.default_hooks.visualization = dict(type='SegVisualizationHook', draw=True, interval=1)
    return cfg


def test_confidence_reaches_files_samples_and_tensorboard(make_config, tmp_path):
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator', reason='reads what was logged'
    )
    cfg = make_config(images=1, smoothing=dict(draw_every=1))
    with_visualizer(cfg, 'SegLocalVisualizer', 'LocalVisBackend', 'TensorboardVisBackend')
    cfg.test_evaluator = [cfg.test_evaluator, dict(type='KeepsSamples')]
    KeepsSamples.seen.clear()
    metrics = run_test(cfg)

    results = tmp_path / 'work/certified'
    votes = {path.stem: load_votes(path) for path in results.glob('votes-*/*.npz')}
    assert len(votes) == 1
    (folder,) = results.glob('confidence-*')
    for sample in KeepsSamples.seen:
        name = sample['name']
        expected = confidence_maps(
            votes[name], alpha=0.01, selection='holdout', radius=GaussianNoise(0.25).radius
        )
        with np.load(folder / f'{name}.npz', allow_pickle=False) as stored:
            assert stored.keys() == expected.keys() == KINDS.keys()
            for key, values in expected.items():
                np.testing.assert_array_equal(stored[key], values)
        for key, field in FIELDS.items():
            np.testing.assert_array_equal(sample[field]['data'][0], expected[key])
        np.testing.assert_array_equal(sample['pred_sem_seg']['data'][0], expected['guess'])
        assert cv2.imread(str(folder / f'{name}.png'), cv2.IMREAD_UNCHANGED).dtype == np.uint8

    (events,) = {path.parent for path in tmp_path.rglob('events.out.tfevents*')}
    logged = accumulator.EventAccumulator(str(events), size_guidance={'images': 0}).Reload()
    for key in ('certified/certAcc', 'certified/mIoU', 'certified/abstain'):
        (event,) = logged.Scalars(key)
        assert event.value == pytest.approx(metrics[key], rel=1e-6)
    expected = {f'{kind}-{name}.png' for name in votes for kind in ('certified', 'confidence')}
    assert expected <= set(logged.Tags()['images'])
    (local,) = tmp_path.rglob('vis_image')
    assert {f'{name}_0.png' for name in expected} <= {path.name for path in local.iterdir()}
    for name in votes:
        (event,) = logged.Images(f'confidence-{name}.png')
        drawn = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), -1)
        np.testing.assert_array_equal(drawn, cv2.imread(str(folder / f'{name}.png'), -1))
    scalars = [json.loads(line) for path in tmp_path.rglob('scalars.json') for line in path.open()]
    assert any(line.get('certified/certAcc') == metrics['certified/certAcc'] for line in scalars)


def test_the_certified_visualizer_draws_confidence_beside(make_config, tmp_path):
    cfg = make_config(images=1, smoothing=dict(confidence=None))
    with_visualizer(cfg, 'mmcert.CertifiedVisualizer', 'LocalVisBackend')
    run_test(cfg)
    assert not list((tmp_path / 'work/certified').glob('confidence-*'))
    (local,) = tmp_path.rglob('vis_image')
    stems = sorted(path.name.partition('.')[0] for path in local.iterdir())
    assert len(stems) == 2 and stems[1] == f'{stems[0]}-confidence'
