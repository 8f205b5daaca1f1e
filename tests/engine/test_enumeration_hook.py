"""Enumeration on the main path: ``smoothing=dict(...)``, hook, planner and tools."""

import json

import pytest
import torch
from mmengine.runner import Runner

from mmcert.attacks import exhaustive
from mmcert.certifier import certifier
from mmcert.engine import SmoothingConfig
from mmcert.transformations import build
from tests.engine.test_cells_hook import certificates_of, images_of
from tests.engine.test_smoothing_hook import Interrupt, votes_files
from tests.openmmlab import run_test, run_tool

ANGLES = [-3.0, 2.0, 5.0]
PERTURBATION = dict(type='mmcert.Enumeration', transformation='rotation', values=ANGLES)


@pytest.fixture
def enumerated(make_config, tmp_path):
    """Configs of a small model, certified at a few angles."""

    def make(images=2, perturbation=(), model=None, **smoothing):
        cfg = make_config(images=images, model=model)
        cfg.smoothing = dict(perturbation=PERTURBATION | dict(perturbation), batch_size=2)
        cfg.smoothing |= dict(votes_dir=str(tmp_path / 'votes')) | smoothing
        if model is not None:
            cfg.pop('data_preprocessor')
        return cfg

    return make


def summary_of(work):
    return json.loads((work / 'certified/summary.json').read_text())


@pytest.mark.parametrize('binary', [False, True])
def test_certified_is_what_exhaustive_search_finds_robust(enumerated, tmp_path, binary):
    cfg = enumerated(model=dict(type='BrightnessSegmentor', channels=3, binary=binary))
    metrics = run_test(cfg)

    def predict(image):
        return (image.float().mean(dim=0) > 0.5).long()

    certified = 0
    found = certificates_of(tmp_path / 'work')
    for (_, _, labels), image in zip(found, images_of(cfg), strict=True):
        clean = predict(image)
        robust = exhaustive(predict, image.double(), build('rotation'), ANGLES, clean).robust
        assert torch.equal(torch.as_tensor(labels != 254), robust)
        assert (labels[robust] == clean.numpy()[robust]).all()
        certified += int(robust.sum())
    assert 100 < certified < 2 * 32 * 48
    assert metrics['certified/certified_share'] == certified / (2 * 32 * 48)
    # What mmsegmentation's own metric judges is the base model.
    assert metrics['aAcc'] == pytest.approx(100 * metrics['certified/base_aAcc'], abs=0.01)


def test_certificates_and_tables_say_verified_by_enumeration(enumerated, tmp_path, capsys):
    metrics = run_test(enumerated(draw_every=1))
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert 'smoothing: 3 parameters per image, each tried once; to be verified by enumeration' in (
        text
    )
    assert 'verified by enumeration, without draws or alpha: no rotation with angle' in text
    assert metrics['certified/draws'] == 3 and 'certified/radius' not in metrics
    assert not [name for name in metrics if 'smoothed' in name]
    folder = tmp_path / 'work/certified'
    for _, statement, labels in certificates_of(tmp_path / 'work'):
        assert (statement['kind'], statement['confidence']) == ('exact', 1.0)
        assert statement['num_values'] == 3
        assert statement['parameters']['values'] == ANGLES
        assert statement['operator'].startswith('about the centre')
        assert not {'tau', 'alpha', 'procedure', 'radius', 'seed', 'n0', 'n'} & statement.keys()
        assert (labels != 254).sum() == statement['certified'] > 0
    # There is no radius map, and nothing else to keep beside the labels.
    assert not list(folder.glob('certificates-*/*.npz'))
    assert len(list(folder.glob('vis-*/*.png'))) == 2
    summary = summary_of(tmp_path / 'work')
    assert summary['certificate']['kind'] == 'exact' and 'all_images' not in summary
    assert summary['draws'] == {'mean': 3, 'least': 3, 'most': 3}


def test_an_interrupted_run_continues_and_another_set_is_refused(enumerated, tmp_path, monkeypatch):
    expected = run_test(enumerated(votes_dir=str(tmp_path / 'whole')))
    runner = Runner.from_cfg(enumerated())
    runner.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        runner.test()
    assert len(votes_files(tmp_path / 'votes')) == 1
    assert run_test(enumerated()) == expected
    assert votes_files(tmp_path / 'votes') == votes_files(tmp_path / 'whole')
    monkeypatch.setattr(certifier, 'collect_enumerated', None)
    assert run_test(enumerated()) == expected
    with pytest.raises(ValueError, match='perturbation'):
        run_test(enumerated(perturbation=dict(values=[1.0])))


@pytest.mark.parametrize(
    ('smoothing', 'message'),
    [
        (dict(alpha=1e-3), 'draws nothing and tests nothing: leave alpha out'),
        (dict(tau=0.75, n=100, n0=10), 'leave tau, n0, n out'),
        (dict(procedure='holm', selection='holdout', k=3, order='margin'), 'procedure, selection'),
        (dict(n='auto', budget=500, min_gain=0.1), 'leave n, budget, min_gain out'),
        (dict(hierarchy='camvid', seed=1), 'leave hierarchy, seed out'),
        (dict(sigma=0.25), 'either sigma .* or perturbation, not both'),
        (dict(perturbation=dict(PERTURBATION, range=[-1, 1])), 'no range: a range or a box has'),
    ],
)
def test_what_means_nothing_without_draws_is_refused(smoothing, message):
    with pytest.raises(ValueError, match=message):
        SmoothingConfig.from_cfg(dict(perturbation=PERTURBATION) | smoothing)


def test_clouds_are_refused():
    pytest.importorskip('mmdet3d')
    with pytest.raises(ValueError, match='is for image'):
        SmoothingConfig.from_cfg(dict(perturbation=PERTURBATION), 'cloud')


# --- tools ---


def test_shards_are_merged(enumerated, tmp_path):
    whole = run_test(enumerated(images=3))
    expected = summary_of(tmp_path / 'work')
    for shard in ('1/2', '2/2'):
        cfg = enumerated(images=3, shard=shard, out_dir=str(tmp_path / 'parts'))
        cfg.smoothing.votes_dir = 'auto'
        run_test(cfg)
    printed = run_tool('tools/merge.py', tmp_path / 'parts')
    assert 'verified by enumeration' in printed
    merged = json.loads((tmp_path / 'parts/summary.json').read_text())
    assert merged['rates'] == expected['rates']
    assert merged['rates']['certAcc'] == whole['certified/certAcc']


def test_votes_are_counted_offline_and_no_setting_is_taken(enumerated, tmp_path):
    metrics = run_test(enumerated())
    printed = run_tool('tools/certify.py', tmp_path / 'votes')
    assert 'Verified by enumeration, without tau, alpha or procedure' in printed
    (row,) = json.loads((tmp_path / 'offline-votes/offline.json').read_text())['rows']
    assert (row['kind'], row['num_values']) == ('exact', 3)
    for name in ('certAcc', 'mIoU', 'abstain', 'worst_mIoU', 'base_aAcc'):
        assert row[name] == pytest.approx(metrics[f'certified/{name}']), name
    options = ('--tau', 0.75, '--procedure', 'holm')
    refused = run_tool('tools/certify.py', tmp_path / 'votes', *options, expect=2)
    assert 'of an enumeration, without draws or tests: leave out --tau, --procedure' in refused


def test_the_planner_counts_one_pass_for_each_parameter(enumerated, tmp_path):
    cfg = enumerated()
    cfg.dump(tmp_path / 'config.py')
    printed = run_tool('tools/plan.py', tmp_path / 'config.py', '--size', 32, 48)
    assert '1 image of 1536 components; 3 parameters per image, each tried once' in printed
    assert 'values=[-3.0, 2.0, 5.0]).\nCertified: no ' in printed
    assert 'tau' not in printed and 'at one pass for each parameter' in printed
    printed = run_tool('tools/plan.py', tmp_path / 'config.py', cfg.load_from)
    assert f'2 images of {32 * 48} components' in printed and 'ms per parameter on cpu' in printed
