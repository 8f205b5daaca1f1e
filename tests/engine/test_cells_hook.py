"""Attack sets in cells on the main path: ``smoothing=dict(...)``, hook and tools."""

import json
import logging

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from mmcert.certifier import CertificationPlan, Certifier, certifier, entries
from mmcert.certify import CertifySettings
from mmcert.engine import SmoothingConfig
from mmcert.perturbations import GaussianNoise, TransformationCells
from mmcert.sampling import SamplingSettings, SegmentorOutputError
from mmcert.transformations import build
from mmcert.votes import FingerprintError, load_votes
from tests.engine.test_smoothing_hook import votes_files
from tests.openmmlab import run_test
from tests.tools.test_train_surrogate import call, tool_of

LOW, HIGH, SIGMA = 2.8, 3.2, 0.25
"""Few angles, as each pixel of the model below is on its own: the whole image must move by less
than a pixel is away from the boundary between its classes."""
N0, N = 4, 240
MODEL = dict(type='BrightnessSegmentor', channels=3)
PERTURBATION = dict(
    type='mmcert.TransformationCells',
    transformation=dict(type='rotation', padding='reflection'),
    low=LOW,
    high=HIGH,
    noise=dict(type='mmcert.GaussianNoise', sigma=SIGMA),
)


@pytest.fixture
def in_cells(make_config, tmp_path):
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
        found.append((path.stem, entries(json.loads(path.read_text())), labels))
    return found


def images_of(cfg):
    """The test images as the model gets them, by name."""
    dataset = Runner.build_dataloader(cfg.test_dataloader).dataset
    items = [dataset[index] for index in range(len(dataset))]
    return [item['inputs'].float() / 255 for item in items]


def test_certificates_state_what_was_certified(in_cells, tmp_path):
    cfg = in_cells()
    metrics = run_test(cfg)
    found, images = certificates_of(tmp_path / 'work'), images_of(cfg)
    assert len(found) == len(images) == 2
    perturbation = TransformationCells('rotation', LOW, HIGH, GaussianNoise(SIGMA))
    cut = []
    for (_, statement, labels), image in zip(found, images, strict=True):
        partition = perturbation.partition(image, N)
        on_input = statement['attack_on_this_input']
        assert (statement['tau'], on_input['tau']) == (0.5, 0.5)
        assert not {'radius', 'norm', 'unit'} & statement.keys()
        for key, value in partition.details.items():
            assert on_input[key] == pytest.approx(value), key
        assert statement['kind'] == 'certificate' and 'joint_radius' not in statement
        for key, value in perturbation.guarantee(0.5).to_dict().items():
            if key not in ('parameters', 'description'):
                assert statement[key] == json.loads(json.dumps(value)), key
        assert statement['moves_labels']
        assert statement['description'].startswith(
            'under every rotation with angle (degrees) in [2.8, 3.2]'
        )
        assert (statement['n0'], statement['n']) == (N0, N)
        assert (labels != 254).sum() == statement['certified'] > 0
        cut.append(on_input['cells'][0])
    assert min(cut) > 3
    assert metrics['certified/draws'] == N0 + N
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    assert summary['certificate']['tau'] == 0.5 and summary['draws']['most'] == N0 + N


@pytest.mark.parametrize(
    'perturbation',
    [dict(), dict(transformation=dict(type='scaling', padding='zeros'), low=1.05, high=1.058)],
    ids=['rotation', 'scaling'],
)
def test_no_move_within_the_attack_set_changes_a_certified_class(in_cells, tmp_path, perturbation):
    cfg = in_cells(perturbation=perturbation)
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


def test_votes_are_found_again_and_do_not_depend_on_the_terms(in_cells, tmp_path, monkeypatch):
    first = run_test(in_cells())
    expected = votes_files(tmp_path / 'votes')
    monkeypatch.setattr(certifier, 'collect_votes', None)
    assert run_test(in_cells()) == first
    other = run_test(in_cells(alpha=1e-9, procedure='bonferroni'))
    assert other['certified/certified_share'] != first['certified/certified_share']
    assert votes_files(tmp_path / 'votes') == expected
    record = load_votes(min((tmp_path / 'votes').glob('*.npz')))
    assert record.votes.n == N and record.votes.selection_hits is None
    assert record.votes.table is not None and record.meta['partition']['cells']


def test_votes_of_other_cells_are_refused(in_cells):
    run_test(in_cells(images=1))
    zeros = dict(type='rotation', padding='zeros')
    for change in (
        dict(low=2.7),
        dict(cells=4),
        dict(extra_radius=0.1),
        dict(transformation=zeros),
    ):
        with pytest.raises(FingerprintError, match=next(iter(change))):
            run_test(in_cells(images=1, perturbation=change))


def test_batches_do_not_matter_to_the_votes(in_cells, tmp_path):
    run_test(in_cells(images=1))
    run_test(in_cells(images=1, batch_size=7, votes_dir=str(tmp_path / 'other')))
    assert votes_files(tmp_path / 'votes') == votes_files(tmp_path / 'other')


@pytest.mark.parametrize(
    ('smoothing', 'message'),
    [
        (dict(selection='same_draws'), r"draws around other images.*set selection='holdout'"),
        (dict(tau=0.75), 'leave tau out, got 0.75'),
        (dict(selection='same_draws', n0=0), "set selection='holdout'"),
        (dict(n='auto', budget=500), 'give n as a number'),
        (dict(hierarchy='camvid'), 'into cells.*leave hierarchy out'),
        (dict(n0=0), 'n0 must be'),
        (dict(perturbation=PERTURBATION | dict(cells=0)), 'cells must be an integer'),
        (dict(perturbation=PERTURBATION | dict(low=4.0)), 'low < high, got 4.0 and 3.2'),
        (
            dict(perturbation=PERTURBATION | dict(noise=dict(type='GaussianNoise', sigma=25))),
            '0-255 units',
        ),
        (
            dict(perturbation=PERTURBATION | dict(transformation=dict(type='translation'))),
            'no proven Lipschitz constant',
        ),
    ],
)
def test_what_does_not_go_with_cells_is_refused(smoothing, message):
    options = dict(perturbation=PERTURBATION, n0=N0, n=N, selection='holdout') | smoothing
    with pytest.raises(ValueError, match=message):
        SmoothingConfig.from_cfg(options)


def test_the_default_selection_holds_draws_out(in_cells, tmp_path):
    cfg = in_cells(images=1)
    cfg.smoothing.pop('selection')
    run_test(cfg)
    for _, statement, _ in certificates_of(tmp_path / 'work'):
        assert statement['selection'] == 'holdout'


def test_same_draws_are_refused_before_anything_is_loaded(in_cells):
    cfg = in_cells(selection='same_draws')
    cfg.load_from = 'nowhere/missing.pth'
    with pytest.raises(ValueError, match="set selection='holdout'"):
        run_test(cfg)


def test_a_transformation_may_be_given_by_its_name(in_cells, tmp_path):
    run_test(in_cells(images=1))
    expected = votes_files(tmp_path / 'votes')
    cfg = in_cells(images=1, votes_dir=str(tmp_path / 'other'))
    cfg.smoothing.perturbation.pop('transformation')
    cfg.smoothing.perturbation.transformation = 'rotation'
    run_test(cfg)
    assert votes_files(tmp_path / 'other') == expected


def test_a_label_map_on_another_grid_is_refused(in_cells):
    with pytest.raises(SegmentorOutputError, match="Leave out resolution='logits'"):
        run_test(in_cells(images=1, model=None, resolution='logits'))


# --- tools ---


def test_certify_answers_offline_as_the_run_did(in_cells, tmp_path, monkeypatch, capsys):
    run_test(in_cells())
    run_rates = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    votes, tool = tmp_path / 'votes', tool_of('certify')
    command = (votes, '--tau', 0.5, '--alpha', 0.01, '--procedure', 'holm', 'ordered_holm')
    assert call(tool, monkeypatch, *command) == 0
    printed = capsys.readouterr().out
    assert 'TransformationCells(' in printed and f'n0={N0}, n={N}' in printed
    results = tmp_path / 'offline-votes'
    answer = json.loads((results / 'offline.json').read_text())
    holm = answer['rows'][0]
    assert (holm['selection'], holm['counted']) == ('auto', 'holdout')
    for name, value in run_rates['rates'].items():
        if name != 'draws':
            assert holm[name] == pytest.approx(value), name
    assert not (results / 'radius_curve.png').exists()
    # Scores answer for one threshold.
    assert call(tool, monkeypatch, votes, '--tau', 0.75) == 2
    assert 'tau=0.5 alone' in capsys.readouterr().err
    # The selection draws are of the clean image.
    command = (votes, '--tau', 0.5, '--selection', 'same_draws')
    assert call(tool, monkeypatch, *command) == 2
    assert 'selection' in capsys.readouterr().err


def test_plan_tells_what_cells_take(in_cells, tmp_path, monkeypatch, capsys):
    cfg, tool = in_cells(), tool_of('plan')
    cfg.dump(tmp_path / 'config.py')
    assert call(tool, monkeypatch, tmp_path / 'config.py') == 0
    printed = capsys.readouterr().out
    assert f'2 images of {32 * 48} components; alpha = ' in printed
    assert 'Perturbation: TransformationCells(' in printed
    assert 'Certified: under every rotation' in printed and 'give a model' in printed
    assert f'{N0} + {N} draws per image' in printed
    assert 'The plan can certify on 2 of 2 images looked at.' in printed
    assert call(tool, monkeypatch, tmp_path / 'config.py', cfg.load_from) == 0
    assert 'ms per draw on cpu' in capsys.readouterr().out
    options = ('--cfg-options', 'smoothing.selection=same_draws')
    assert call(tool, monkeypatch, tmp_path / 'config.py', *options) == 2
    assert "set selection='holdout'" in capsys.readouterr().err


@pytest.mark.parametrize(('n', 'said'), [(N, 'a class needs about 0.'), (16, 'is so small for')])
def test_a_run_says_before_it_samples_what_share_of_the_draws_a_class_needs(n, said, caplog):
    image = torch.linspace(0, 1, 3 * 12 * 16).reshape(3, 12, 16)
    perturbation = TransformationCells('brightness', 0, 0.004, GaussianNoise(SIGMA))
    sampling = SamplingSettings(n0=2, n=n, num_classes=2)
    plan = CertificationPlan(perturbation, CertifySettings(0.5, 0.02), sampling)
    sampled = []

    def segment(images):
        sampled.append([record.getMessage() for record in caplog.records])
        return (torch.stack(images)[:, 0] > 0.5).long()

    smoothed = Certifier(plan, logger=logging.getLogger('test-of-cells'))
    with caplog.at_level(logging.INFO, 'test-of-cells'):
        for one in (image, image.flip(-1)):
            smoothed.certify(segment, one)
    told = [record.getMessage() for record in caplog.records if said in record.getMessage()]
    assert len(told) == 1 and told[0] in sampled[-1]
