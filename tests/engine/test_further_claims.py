"""k-FWER, looks, radius maps and hierarchies, from the config to the files."""

import json

import cv2
import numpy as np
import pytest

from mmcert.certifier import certifier, entries
from mmcert.certify import CertifySettings, Hierarchy, joint_radii
from mmcert.certify.hierarchy import BUILT_IN
from mmcert.datasets import CamVidDataset
from mmcert.engine.smoothing_config import SmoothingConfig
from mmcert.perturbations import GaussianNoise
from mmcert.votes import load_votes, read_folder
from mmcert.votes.recertify import Task, radius_curve
from tests.openmmlab import run_test

LEVELS = [
    {'flat': ['road', 'sidewalk'], 'tall': ['building', 'tree', 'sign', 'sky']},
    {'static': ['road', 'sidewalk', 'building', 'tree', 'sign', 'sky']},
]


def read_json(path):
    return json.loads(path.read_text())


def certificates(folder):
    (found,) = (folder / 'work/certified').glob('certificates-*')
    return {path.stem: entries(read_json(path)) for path in sorted(found.glob('*.json'))}


@pytest.mark.parametrize('name', sorted(BUILT_IN))
def test_built_in_taxonomies_fit_their_data_sets(name):
    from mmseg.datasets import CityscapesDataset

    dataset = {'camvid': CamVidDataset, 'cityscapes': CityscapesDataset}[name]
    classes = dataset.METAINFO['classes']
    hierarchy = Hierarchy.from_config(name, classes)
    assert hierarchy.names[0] == (
        'flat', 'construction', 'object', 'nature', 'sky', 'human', 'vehicle',
    )  # fmt: skip
    assert hierarchy.names[1] == ('static', 'dynamic')
    assert Hierarchy.from_spec(hierarchy.spec()).spec() == hierarchy.spec()


def test_a_radius_map_is_stored_and_drawn(make_config, tmp_path):
    run_test(make_config(smoothing=dict(draw_every=1, sigma=0.1)))
    (votes,) = (tmp_path / 'work/certified').glob('votes-*')
    (folder,) = (tmp_path / 'work/certified').glob('certificates-*')
    noise = GaussianNoise(0.1)
    for record in read_folder(votes):
        name = record.meta['name']
        radii = np.load(folder / f'{name}.npz')['radius']
        expected = joint_radii(record.votes, alpha=0.01, radius=noise.radius, selection='holdout')
        np.testing.assert_array_equal(radii, expected)
        assert radii.max() > 0
        statement = entries(read_json(folder / f'{name}.json'))
        assert statement['joint_radius']['max'] == pytest.approx(radii.max())
        # Image, label and base, below them certified and radius, and the legend; titles widen them.
        (picture,) = (tmp_path / 'work/certified').glob(f'vis-*/{name}.png')
        height, width = cv2.imread(str(picture)).shape[:2]
        assert height > 2 * (32 + 22) and width % 3 == 0 and width > 3 * (48 + 4)


def test_a_radius_map_counts_what_the_joint_curve_counts(make_config, tmp_path):
    run_test(make_config(images=1, smoothing=dict(sigma=0.1, tau=0.5, selection='auto')))
    (votes,) = (tmp_path / 'work/certified').glob('votes-*')
    (folder,) = (tmp_path / 'work/certified').glob('certificates-*')
    (record,) = read_folder(votes)
    statement = entries(read_json(folder / f'{record.meta["name"]}.json'))
    assert statement['selection'] == 'holdout'
    assert statement['joint_radius']['selection'] == 'same_draws'
    radii = np.load(folder / f'{record.meta["name"]}.npz')['radius']
    noise = GaussianNoise(0.1)
    expected = joint_radii(record.votes, alpha=0.01, radius=noise.radius)
    np.testing.assert_array_equal(radii, expected)
    task = Task(len(record.meta['provenance']['classes']))
    grid = np.linspace(0, radii.max(), 5)[:-1]
    curve = radius_curve([record], task, grid, alpha=0.01, radius=noise.radius)
    assert curve.selections == {'same_draws'}
    np.testing.assert_array_equal(curve.kept, [(radii > reach).sum() for reach in grid])


def test_a_hierarchy_certifies_groups_where_classes_cannot_be(make_config, tmp_path):
    metrics = run_test(make_config(smoothing=dict(hierarchy=LEVELS, draw_every=1, sigma=0.1)))
    assert metrics['certified/abstain_level2'] <= metrics['certified/abstain_level1']
    assert metrics['certified/abstain_level1'] <= metrics['certified/abstain']
    assert metrics['certified/abstain_level0'] == metrics['certified/abstain']
    assert metrics['certified/CIG'] >= metrics['certified/certAcc'] - 1e-12
    (votes,) = (tmp_path / 'work/certified').glob('votes-*')
    (folder,) = (tmp_path / 'work/certified').glob('certificates-*')
    for record in read_folder(votes):
        hierarchy = Hierarchy(LEVELS, record.meta['provenance']['classes'])
        expected = record.certify(CertifySettings(0.6, 0.01, 'holm', 'holdout'), hierarchy)
        maps = np.load(folder / f'{record.meta["name"]}.npz')
        np.testing.assert_array_equal(maps['level'], expected.level)
        np.testing.assert_array_equal(maps['groups2'], expected.groups[1])
        statement = entries(read_json(folder / f'{record.meta["name"]}.json'))
        flat = statement['hierarchy']['levels'][0]['flat']
        assert flat['radius'] == pytest.approx(GaussianNoise(0.1).radius(0.6))
        # tau = 0.6 is less than 2 / 3: the single most frequent class may leave the node.
        assert flat['argmax_radius'] == 0


def test_the_argmax_radius_of_a_node_is_that_of_its_size():
    noise = GaussianNoise(0.25)
    # At the radius, p = m / (m + 1) is left to m classes: one of them has as much as the rest.
    for size in (1, 2, 7):
        left = size / (size + 1)
        assert noise.radius(0.95, left) == pytest.approx(noise.radius(0.95) - noise.radius(left))
    assert noise.radius(0.75, 0.8) == 0


def test_draws_in_looks_stop_early_and_are_continued(make_config, tmp_path):
    smoothing = dict(n='auto', budget=40, votes_dir=str(tmp_path / 'votes'))
    run_test(make_config(smoothing=smoothing))
    first = {path.name: load_votes(path).votes for path in (tmp_path / 'votes').iterdir()}
    for name, statement in certificates(tmp_path).items():
        looks = first[f'{name}.npz'].looks
        assert statement['looks'] == list(looks) and statement['n'] == looks[-1] <= 40
        assert statement['stopped'] in ('the budget is spent', 'more draws would add little')
        assert statement['next_look_would_certify']['kind'] == 'estimate'
    summary = read_json(tmp_path / 'work/certified/summary.json')
    assert summary['draws']['most'] <= 44
    # A larger budget goes on where the smaller one stopped: no draw is made again.
    run_test(make_config(smoothing=smoothing | dict(budget=200, min_gain=0.0)))
    for name, votes in first.items():
        longer = load_votes(tmp_path / 'votes' / name).votes
        assert longer.looks[: len(votes.looks)] == votes.looks
        assert len(longer.looks) > len(votes.looks)
        np.testing.assert_array_equal(longer.history[len(votes.looks) - 1], votes.hits)
    fresh = smoothing | dict(budget=200, min_gain=0.0, votes_dir=str(tmp_path / 'fresh'))
    run_test(make_config(smoothing=fresh))
    for path in (tmp_path / 'fresh').iterdir():
        assert path.read_bytes() == (tmp_path / 'votes' / path.name).read_bytes()


def test_an_image_interrupted_between_looks_is_continued(make_config, tmp_path, monkeypatch):
    smoothing = dict(n='auto', budget=300, min_gain=0.0, votes_dir=str(tmp_path / 'votes'))
    kept = []

    def finish(self, model, inputs, record):
        kept.append(record.votes.n)
        original(self, model, inputs, record)
        if len(kept) == 2:
            raise KeyboardInterrupt

    original = certifier.Certifier._finish
    monkeypatch.setattr(certifier.Certifier, '_finish', finish)
    with pytest.raises(KeyboardInterrupt):
        run_test(make_config(images=1, smoothing=smoothing))
    monkeypatch.undo()
    (path,) = (tmp_path / 'votes').iterdir()
    assert load_votes(path).votes.n == kept[1]
    selections = []
    collect = certifier.collect_looks
    monkeypatch.setattr(
        certifier,
        'collect_looks',
        lambda *a, **k: selections.append(k['start']) or collect(*a, **k),
    )
    run_test(make_config(images=1, smoothing=smoothing))
    assert selections[0].n == kept[1]
    assert load_votes(path).votes.n > kept[1]


def test_a_count_certificate_says_so_and_pays_for_it(make_config, tmp_path):
    metrics = run_test(
        make_config(smoothing=dict(procedure='kfwer', k=0.05, votes_dir=str(tmp_path / 'votes')))
    )
    plain = run_test(make_config(smoothing=dict(votes_dir=str(tmp_path / 'votes'))))
    assert metrics['certified/abstain'] <= plain['certified/abstain']
    assert np.isnan(metrics['certified/worst_mIoU'])
    kinds = set()
    for path in (tmp_path / 'work/certified').glob('certificates-*/*.json'):
        kinds.add(tuple(read_json(path)['promise'][key] for key in ('kind', 'k')))
    assert kinds == {('count certificate', int(0.05 * 32 * 48)), ('certificate', 1)}


@pytest.mark.parametrize('selection', ['holdout', 'same_draws'])
def test_every_procedure_runs_from_the_config(make_config, tmp_path, selection):
    shares = {}
    for procedure in ('bonferroni', 'holm', 'ordered_holm'):
        metrics = run_test(
            make_config(
                smoothing=dict(
                    procedure=procedure, selection=selection, votes_dir=str(tmp_path / 'votes')
                )
            )
        )
        shares[procedure] = metrics['certified/certified_share']
    assert shares['bonferroni'] <= shares['holm'] <= shares['ordered_holm']


@pytest.mark.parametrize('selection', ['same_draws', 'auto'])
def test_no_selection_draws_are_needed_for_same_draws(make_config, tmp_path, selection):
    run_test(make_config(smoothing=dict(selection=selection, n0=0)))
    for statement in certificates(tmp_path).values():
        assert (statement['n0'], statement['selection']) == (0, 'same_draws')


@pytest.mark.parametrize(
    ('smoothing', 'message'),
    [
        (dict(n='auto'), "n='auto' needs a budget"),
        (dict(n='many'), "n must be an integer or 'auto', got 'many'"),
        (dict(budget=100), "budget goes with n='auto'"),
        (dict(n='auto', budget=0), 'budget must be an integer of at least 1'),
        (dict(n='auto', budget=100, min_gain=2), 'min_gain must lie in'),
        (dict(n0=0, selection='holdout'), 'n0 must be an integer of at least 1'),
        (dict(n0=0, selection='same_draws', n='auto', budget=50), 'need a guess from selection'),
        (dict(procedure='kfwer'), 'kfwer needs k'),
        (dict(n0=0, n='auto', budget=50), 'need a guess from selection'),
        (dict(n0=0, order='selection'), 'n0 must be an integer of at least 1'),
        (dict(selection='all'), "unknown selection 'all'"),
        (dict(order='selection', selection='same_draws'), 'not valid'),
    ],
)
def test_bad_options_are_named(smoothing, message):
    with pytest.raises(ValueError, match=message):
        SmoothingConfig.from_cfg({'sigma': 0.25, **smoothing})


def test_a_hierarchy_of_other_classes_is_refused(make_config):
    with pytest.raises(ValueError, match="names the class 'Road'"):
        run_test(make_config(smoothing=dict(hierarchy=[{'flat': ['Road']}])))


def test_a_budget_below_the_first_look_is_refused(make_config):
    with pytest.raises(ValueError, match='does not reach the first look'):
        run_test(make_config(smoothing=dict(n='auto', budget=5)))


def test_too_few_draws_for_holm_are_warned_of(make_config, tmp_path):
    # n = 20 at tau = 0.6: 20 unanimous votes have p = 4e-5 > 0.01 / 1536, but less than 0.01.
    run_test(make_config(smoothing=dict(n=20, procedure='ordered_holm')))
    (log,) = (tmp_path / 'work').glob('2*/2*.log')
    assert 'holm needs at least 24 draws to begin' in log.read_text()


def test_images_with_and_without_an_allowance_are_reported_together(make_config, tmp_path):
    # k as a share is 1 for a small image: its certificates are plain ones.
    cfg = make_config(smoothing=dict(procedure='kfwer', k=0.0008))
    cfg.test_dataloader.dataset = dict(
        type='ConcatDataset',
        datasets=[
            cfg.test_dataloader.dataset,
            {**cfg.test_dataloader.dataset, 'size': (48, 64), 'num_images': 1},
        ],
    )
    run_test(cfg)
    kinds = {statement['kind'] for statement in certificates(tmp_path).values()}
    assert kinds == {'certificate', 'count certificate'}
    (log,) = tmp_path.glob('work/*/*.log')
    assert 'count certificates: with probability 0.99 per image, for all but' in log.read_text()
