"""Rotation and scaling by slices on the main path: ``smoothing=dict(...)``, hook and tools."""

import json
import logging

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from mmcert.certifier import certifier
from mmcert.engine import SmoothingConfig, progress
from mmcert.perturbations import SlicedTransformation
from mmcert.sampling import SegmentorOutputError
from mmcert.transformations import build
from mmcert.votes import FingerprintError, load_votes
from tests.engine.test_smoothing_hook import votes_files
from tests.openmmlab import run_test
from tests.tools.test_train_surrogate import call, tool_of

LOW, HIGH, SLICES, SIGMA = 2.8, 3.2, 3, 0.25
"""Few angles, as each pixel of the model below is on its own: the whole image must move by less
than a pixel is away from the boundary between its classes."""
N0, N = 4, 60
MODEL = dict(type='BrightnessSegmentor', channels=3)
PERTURBATION = dict(
    type='mmcert.SlicedTransformation',
    transformation=dict(type='rotation', padding='reflection'),
    low=LOW,
    high=HIGH,
    slices=SLICES,
    sigma=SIGMA,
)


@pytest.fixture
def sliced(make_config, tmp_path):
    """Configs of a model whose smoothed version is known, certified against rotation."""

    def make(images=2, perturbation=(), model=MODEL, **smoothing):
        options = dict(
            sigma=None,
            tau=None,
            n0=N0,
            n=N,
            batch_size=16,
            perturbation=PERTURBATION | dict(perturbation),
            votes_dir=str(tmp_path / 'votes'),
        )
        cfg = make_config(images=images, model=model, smoothing=options | smoothing)
        if model is not None:
            # mmengine would give it to the model, which has one of its own.
            cfg.pop('data_preprocessor')
        return cfg

    return make


def certificates_of(work):
    """Statement, labels and image of each input, the image in [0, 1]."""
    found = []
    for path in sorted((work / 'certified').glob('certificates-*/*.json')):
        labels = cv2.imread(str(path.with_suffix('.png')), cv2.IMREAD_UNCHANGED)
        found.append((path.stem, json.loads(path.read_text()), labels))
    return found


def images_of(cfg):
    """The test images as the model gets them, by name."""
    dataset = Runner.build_dataloader(cfg.test_dataloader).dataset
    items = [dataset[index] for index in range(len(dataset))]
    return [item['inputs'].float() / 255 for item in items]


def test_certificates_state_what_was_certified(sliced, tmp_path):
    cfg = sliced()
    metrics = run_test(cfg)
    found, images = certificates_of(tmp_path / 'work'), images_of(cfg)
    assert len(found) == len(images) == 2
    perturbation = SlicedTransformation(dict(type='rotation'), LOW, HIGH, SLICES, SIGMA)
    taus = []
    assert perturbation.index == 0
    for (_, statement, labels), image in zip(found, images, strict=True):
        input_threshold = perturbation.input_threshold(image)
        assert statement['tau'] == input_threshold.tau == statement['attack_on_this_input']['tau']
        assert 0.5 < statement['tau'] < 0.95
        assert statement['attack_on_this_input']['worst_slice'] in range(SLICES)
        # The radius within a slice is what the image moves there, at least.
        moved = statement['attack_on_this_input']['supremum']
        assert statement['radius'] == pytest.approx(moved, rel=1e-6)
        assert statement['radius'] >= float(perturbation.displacements(image).max())
        assert statement['kind'] == 'certificate'
        for key, value in perturbation.guarantee(input_threshold.tau).to_dict().items():
            assert statement[key] == json.loads(json.dumps(value)), key
        assert (statement['low'], statement['high'], statement['slices']) == (LOW, HIGH, SLICES)
        assert (statement['unit_of_xi'], statement['moves_labels']) == ('degrees', True)
        assert statement['description'].startswith('no rotation from 2.8 to 3.2 (degrees)')
        assert (statement['n0'], statement['n'], statement['num_cells']) == (N0, N, SLICES)
        assert (labels != 254).sum() == statement['certified'] > 0
        taus.append(statement['tau'])
    assert len(set(taus)) == 2
    # Each image takes the estimation draws of every slice.
    assert metrics['certified/draws'] == N0 + SLICES * N
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    assert 'tau' not in summary['certificate']
    assert summary['certificate']['slices'] == SLICES
    assert summary['draws']['most'] == N0 + SLICES * N


@pytest.mark.parametrize(
    'perturbation',
    [dict(), dict(transformation=dict(type='scaling', padding='zeros'), low=1.05, high=1.058)],
    ids=['rotation', 'scaling'],
)
def test_no_move_within_the_attack_set_changes_a_certified_class(sliced, tmp_path, perturbation):
    cfg = sliced(perturbation=perturbation)
    run_test(cfg)
    used = cfg.smoothing.perturbation
    transformation = build(dict(used.transformation))
    certified = 0
    for (_, _, labels), image in zip(
        certificates_of(tmp_path / 'work'), images_of(cfg), strict=True
    ):
        sure = labels != 254
        certified += sure.sum()
        for xi in np.linspace(used.low, used.high, 81):
            moved = transformation(image.double()[None], float(xi))
            # The smoothed class of a linear segmentor is its class on the image itself.
            smoothed = (moved.mean(dim=1) > 0.5).long()
            carried = transformation.labels_of_content(smoothed, torch.tensor([[xi]]))[0]
            assert (carried.numpy()[sure] == labels[sure]).all(), xi
    assert certified > 200


def test_votes_are_found_again_and_do_not_depend_on_the_terms(sliced, tmp_path, monkeypatch):
    first = run_test(sliced())
    expected = votes_files(tmp_path / 'votes')
    monkeypatch.setattr(certifier, 'collect_votes', None)
    assert run_test(sliced()) == first
    other = run_test(sliced(alpha=0.2, procedure='bonferroni', tau=0.75))
    assert other['certified/certified_share'] != first['certified/certified_share']
    assert votes_files(tmp_path / 'votes') == expected
    record = load_votes(min((tmp_path / 'votes').glob('*.npz')))
    assert record.votes.n == N and record.votes.selection_hits is None


def test_votes_of_other_slices_are_refused(sliced):
    run_test(sliced(images=1))
    zeros = dict(type='rotation', padding='zeros')
    for change in (dict(low=2.7), dict(slices=4), dict(sigma=0.4), dict(transformation=zeros)):
        with pytest.raises(FingerprintError, match=next(iter(change))):
            run_test(sliced(images=1, perturbation=change))


def test_batches_do_not_matter_to_the_votes(sliced, tmp_path):
    run_test(sliced(images=1))
    run_test(sliced(images=1, batch_size=7, votes_dir=str(tmp_path / 'other')))
    assert votes_files(tmp_path / 'votes') == votes_files(tmp_path / 'other')


@pytest.mark.parametrize(
    ('smoothing', 'message'),
    [
        (dict(selection='same_draws'), r"slices=3.*set selection='holdout'"),
        (dict(selection='same_draws', n0=0), "set selection='holdout'"),
        (dict(n='auto', budget=500), 'one threshold for all images.*give n as a number'),
        (dict(hierarchy='camvid'), 'has 3 cells.*leave hierarchy out'),
        (dict(n0=0), 'n0 must be'),
        (dict(perturbation=PERTURBATION | dict(slices=0)), 'slices must be an integer'),
        (dict(perturbation=PERTURBATION | dict(low=4.0)), 'low < high, got 4.0 and 3.2'),
        (dict(perturbation=PERTURBATION | dict(sigma=25)), '0-255 units'),
        (
            dict(perturbation=PERTURBATION | dict(transformation=dict(type='translation'))),
            'only rotation and scaling',
        ),
    ],
)
def test_what_does_not_go_with_slices_is_refused(smoothing, message):
    options = dict(perturbation=PERTURBATION, n0=N0, n=N, selection='holdout') | smoothing
    with pytest.raises(ValueError, match=message):
        SmoothingConfig.from_cfg(options)


def test_the_default_selection_holds_draws_out(sliced, tmp_path):
    cfg = sliced(images=1)
    cfg.smoothing.pop('selection')
    run_test(cfg)
    for _, statement, _ in certificates_of(tmp_path / 'work'):
        assert statement['selection'] == 'holdout'


def test_same_draws_are_refused_before_anything_is_loaded(sliced):
    cfg = sliced(selection='same_draws')
    cfg.load_from = 'nowhere/missing.pth'
    with pytest.raises(ValueError, match="set selection='holdout'"):
        run_test(cfg)


def test_a_transformation_may_be_given_by_its_name(sliced, tmp_path):
    run_test(sliced(images=1))
    expected = votes_files(tmp_path / 'votes')
    cfg = sliced(images=1, votes_dir=str(tmp_path / 'other'))
    cfg.smoothing.perturbation.pop('transformation')
    cfg.smoothing.perturbation.transformation = 'rotation'
    run_test(cfg)
    assert votes_files(tmp_path / 'other') == expected


def test_a_label_map_on_another_grid_is_refused(sliced):
    with pytest.raises(SegmentorOutputError, match="Leave out resolution='logits'"):
        run_test(sliced(images=1, model=None, resolution='logits'))


def test_progress_counts_the_draws_of_all_slices(sliced, caplog, monkeypatch):
    monkeypatch.setattr(progress, 'SECONDS', 1e-9)
    runner = Runner.from_cfg(sliced(images=1))
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        runner.test()
    assert f'{N0} + {SLICES} x {N} draws per image' in caplog.text
    whole = N0 + SLICES * N
    done = [
        int(line.split(': ')[1].split('/')[0])
        for line in caplog.messages
        if f'/{whole} draws, ' in line
    ]
    assert len(done) > SLICES
    assert done == sorted(set(done)) and done[-1] < whole


def test_one_slice_is_no_exception(sliced):
    # Its hits ask for all pixels that the content may reach, the selection draws for one.
    one = dict(images=1, perturbation=dict(slices=1), procedure='ordered_holm')
    with pytest.raises(ValueError, match="set selection='holdout' or 'auto'"):
        run_test(sliced(**one, selection='same_draws'))
    metrics = run_test(sliced(**one, selection='auto'))
    assert metrics['certified/draws'] == N0 + N


# --- tools ---


def test_certify_answers_offline_as_the_run_did(sliced, tmp_path, monkeypatch, capsys):
    run_test(sliced(tau=0.7))
    run_rates = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    statements = [statement for _, statement, _ in certificates_of(tmp_path / 'work')]
    assert {statement['tau'] for statement in statements} == {0.7}
    votes, tool = tmp_path / 'votes', tool_of('certify')
    command = (votes, '--tau', 0.7, '--alpha', 0.01, '--procedure', 'holm', 'ordered_holm')
    assert call(tool, monkeypatch, *command) == 0
    printed = capsys.readouterr().out
    assert 'SlicedTransformation(' in printed and f'n0={N0}, n={N}' in printed
    results = tmp_path / 'offline-votes'
    answer = json.loads((results / 'offline.json').read_text())
    holm = answer['rows'][0]
    assert (holm['selection'], holm['counted']) == ('auto', 'holdout')
    for name, value in run_rates['rates'].items():
        if name != 'draws':
            assert holm[name] == pytest.approx(value), name
    assert (results / 'radius_curve.png').stat().st_size > 10_000
    # The selection draws are of one slice.
    command = (votes, '--tau', 0.7, '--selection', 'same_draws')
    assert call(tool, monkeypatch, *command) == 2
    assert 'selection' in capsys.readouterr().err


def test_plan_tells_what_slices_take(sliced, tmp_path, monkeypatch, capsys):
    cfg, tool = sliced(), tool_of('plan')
    cfg.dump(tmp_path / 'config.py')
    assert call(tool, monkeypatch, tmp_path / 'config.py') == 0
    printed = capsys.readouterr().out
    assert f'2 images of {32 * 48} components; SlicedTransformation(' in printed
    assert f'{N0} + {SLICES} x {N} draws per image' in printed
    assert 'The plan can certify on 2 of 2 images looked at.' in printed
    assert call(tool, monkeypatch, tmp_path / 'config.py', cfg.load_from) == 0
    assert 'ms per draw on cpu' in capsys.readouterr().out
    options = ('--cfg-options', 'smoothing.selection=same_draws')
    assert call(tool, monkeypatch, tmp_path / 'config.py', *options) == 2
    assert "set selection='holdout'" in capsys.readouterr().err
