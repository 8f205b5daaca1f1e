"""The attack tool: tables, stored results, and the alarm for certificates that are wrong."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmcert.certify import CertifySettings
from mmcert.perturbations import GaussianNoise
from mmcert.runs import attacking
from mmcert.runs.attack_options import L2Options, ParameterOptions
from mmcert.runs.attacked_input import ByParameters, read_attacked
from tests.openmmlab import MODELS, BrightnessSegmentor, run_tool

FAST = (
    '--steps', 6, '--draws', 2, '--judged', 40, '--sure', 200, '--losses', 'masked_ce', 'js',
)  # fmt: skip
MODEL = dict(type='BrightnessOfSeveral', channels=3)


@MODELS.register_module(force=True)
class BrightnessOfSeveral(BrightnessSegmentor):
    """The same for the data set's classes: dark pixels are of the second, bright ones of the first.

    The distance of a pixel to its boundary is |mean - 1/2| * sqrt(3).
    """

    def encode_decode(self, inputs, batch_img_metas):
        dark, bright = super().encode_decode(inputs, batch_img_metas).split(1, dim=1)
        others = torch.full_like(dark, -100.0).expand(-1, 6, -1, -1)
        return torch.cat([bright, dark, others], dim=1)


@pytest.fixture
def attack(make_config, tmp_path):
    """Runs the tool on a config; returns what it printed, and the folder of results."""
    runs = iter(range(100))

    def run(*options, images=2, expect=0, work='work', model=MODEL, **smoothing):
        cfg = make_config(images=images, model=model, smoothing={'n': 60})
        cfg.pop('data_preprocessor')
        cfg.smoothing = smoothing or cfg.smoothing
        path = tmp_path / f'config{next(runs)}.py'
        cfg.dump(path)
        printed = run_tool(
            'tools/attack.py', path, cfg.load_from, '--work-dir', tmp_path / work, *options,
            expect=expect,
        )  # fmt: skip
        folders = sorted((tmp_path / work / 'certified').glob('attacks-*'))
        return printed, folders

    return run


def summary_of(folder):
    return json.loads((folder / 'summary.json').read_text())


def test_certified_below_attacked_below_clean(attack):
    printed, (folder,) = attack('--radius', 0.05, 1.0, *FAST)
    assert 'base, attacked' in printed
    assert 'IoU of' in printed
    assert '2/2' in printed
    summary = summary_of(folder)
    small, large = summary['attack_sets']
    for found in (small, large):
        rates = {name: rate['accuracy'] for name, rate in found['rates'].items()}
        assert rates['certified'] <= rates['smoothed_attacked'] + 0.01
        assert rates['base_attacked'] < rates['base_clean']
        assert {row['attack'] for row in found['attacks']} >= {'masked_ce', 'js'}
        assert all(row['broken'] in (0, None) for row in found['attacks'])
    assert small['tau'] < large['tau']
    assert small['rates']['base_attacked']['accuracy'] > large['rates']['base_attacked']['accuracy']
    assert large['certified_share'] == 0, 'no threshold of 60 draws covers this radius'
    assert 'cannot certify anything' in printed
    assert len(list(folder.glob('*.png'))) == 4
    with np.load(folder / '00000-l2-0.05.npz') as arrays:
        delta = arrays['perturbation'] * arrays['perturbation_step']
    assert np.linalg.norm(delta) == pytest.approx(0.05, rel=0.02), 'up to its rounding'
    rows = read_attacked(folder / '00000-l2-0.05.npz').facts['attacks']
    assert [row['norm'] for row in rows if not 0.049 < row['norm'] <= 0.05] == []


def test_a_run_continues_and_gives_the_same(attack):
    options = ('--radius', 0.1, *FAST)
    _, (folder,) = attack(*options)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / '00001-l2-0.1.npz').unlink()
    (folder / '00001-l2-0.1.json').unlink()
    untouched = (folder / '00000-l2-0.1.npz').stat().st_mtime_ns
    attack(*options)
    assert (folder / '00000-l2-0.1.npz').stat().st_mtime_ns == untouched
    again = read_attacked(folder / '00001-l2-0.1.npz')
    assert json.loads(files['00001-l2-0.1.json']) == again.facts
    before, after = json.loads(files['summary.json']), summary_of(folder)
    assert before.pop('identity')['weights'] == after.pop('identity')['weights']
    assert before == after
    # Another seed is another run.
    _, folders = attack(*options, '--seed', 3)
    assert len(folders) == 2


def test_a_wrong_certificate_is_reported_with_what_it_takes_to_see_it(attack, monkeypatch):
    honest = GaussianNoise.radius
    monkeypatch.setattr(GaussianNoise, 'radius', lambda self, *tau: 20 * honest(self, *tau))
    printed, (folder,) = attack('--radius', 1.0, *FAST, images=1, expect=1)
    assert 'BROKEN CERTIFICATE' in printed
    failures = summary_of(folder)['failures']
    assert failures[0]['input'] in printed
    # What is reported can be seen again, without the run.
    failure = failures[0]
    arrays = np.load(folder / failure['attacked_input'])
    attacked, clean = torch.from_numpy(arrays['attacked']), torch.from_numpy(arrays['clean'])
    assert (attacked.double() - clean.double()).norm().item() <= 1.0
    noise = GaussianNoise(0.25)
    draws = noise.draw(attacked, [torch.Generator().manual_seed(s) for s in range(2000)])
    labels = (noise.apply(attacked, draws).mean(dim=1) <= 0.5).long()
    for component in failure['components']:
        row, column = component['at']
        share = (labels[:, row, column] == component['class']).float().mean().item()
        assert share < 0.5
        assert component['p_value'] < failure['level']
        assert abs(share - component['hits'] / failure['draws']) < 0.2


def test_targets_and_hidden_classes_by_name(attack):
    _, (folder,) = attack('--radius', 1.0, *FAST, '--target', 1, '--images', 1)
    assert summary_of(folder)['settings']['images'] == 1
    rows = summary_of(folder)['attack_sets'][0]['attacks']
    assert rows
    assert 'there is no class' in attack('--radius', 1.0, '--hide', 'zebra', images=1, expect=2)[0]


def test_what_cannot_be_attacked_is_refused(attack, make_config, tmp_path):
    assert 'needs --radius' in attack(expect=2)[0]
    laplace = dict(perturbation=dict(type='mmcert.LaplaceNoise', b=0.2))
    assert 'does not certify against l2' in attack('--radius', 0.1, expect=2, **laplace)[0]
    assert 'not about the parameters' in attack('--attack', 'parameters', expect=2)[0]
    assert 'certifies no radius' in attack('--radius', 1000.0, expect=2)[0]
    cfg = make_config()
    cfg.pop('smoothing')
    cfg.dump(tmp_path / 'plain.py')
    plain = tmp_path / 'plain.py', cfg.load_from, '--radius', 0.1
    assert 'has no `smoothing`' in run_tool('tools/attack.py', *plain, expect=2)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: L2Options(radii=()), 'radii must be positive'),
        (lambda: L2Options(radii=(1.0,), losses=('hinge',)), 'unknown losses hinge'),
        (lambda: L2Options(radii=(1.0,), schedule='slow'), 'a schedule of'),
        (lambda: L2Options(radii=(1.0,), target=1, hide=2), 'either drive'),
        (lambda: L2Options(radii=(1.0,), draws=0), 'draws must be'),
        (lambda: L2Options(radii=(1.0,), sure=0), 'sure must be'),
        (lambda: L2Options(radii=(1.0,), level=0.0), 'level must lie'),
        (lambda: L2Options(radii=(1.0,), steps=0), 'steps >= 1'),
        (lambda: ParameterOptions(points=1), 'points >= 2'),
    ],
)
def test_bad_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


PARAMETERS = ('--attack', 'parameters', '--points', 3, '--judged', 40, '--sure', 200)


def test_parameters_of_cells_are_attacked(attack):
    noise = dict(type='mmcert.GaussianNoise', sigma=0.25)
    cells = dict(
        n=200, procedure='holm', selection='holdout', alpha=0.01,
        perturbation=dict(type='mmcert.TransformationCells', transformation='brightness',
                          low=-0.001, high=0.001, noise=noise),
    )  # fmt: skip
    printed, (folder,) = attack(*PARAMETERS, images=1, **cells)
    rows = read_attacked(folder / '00000-parameters.npz').facts['attacks']
    tried = [row['parameter'][0] for row in rows if row['model'] == 'smoothed']
    assert tried[:3] == [-0.001, 0.0, 0.001]
    assert any(row['attack'].startswith('gradient') for row in rows)
    assert all(row.get('broken', 0) == 0 for row in rows)
    (found,) = summary_of(folder)['attack_sets']
    assert found['certified_share'] > 0
    assert 'parameters' in printed


def test_parameters_of_an_enumeration_are_verified(attack):
    rotation = dict(type='rotation', padding='reflection')
    exact = dict(type='mmcert.Enumeration', transformation=rotation, values=[-4, 4])
    _, (folder,) = attack(*PARAMETERS, images=1, perturbation=exact)
    (found,) = summary_of(folder)['attack_sets']
    assert found['certified_share'] > 0
    assert found['tau'] is None
    assert all(row['broken'] in (0, None) for row in found['attacks'])
    assert found['rates']['certified']['accuracy'] <= found['rates']['base_attacked']['accuracy']


def test_a_wrong_certificate_of_an_enumeration_is_reported(attack, monkeypatch):
    certify = ByParameters.certify

    def credulous(self):
        note, found = certify(self)
        return note, replace(found, certified=np.ones_like(found.certified))

    monkeypatch.setattr(ByParameters, 'certify', credulous)
    rotation = dict(type='rotation', padding='reflection')
    exact = dict(type='mmcert.Enumeration', transformation=rotation, values=[-4, 4])
    # One draw alone could never say it beyond doubt.
    few = '--attack', 'parameters', '--sure', 1
    printed, (folder,) = attack(*few, images=1, expect=1, perturbation=exact)
    assert 'BROKEN CERTIFICATE' in printed
    failure = summary_of(folder)['failures'][0]
    assert failure['draws'] > 10
    assert failure['parameter'] in ([-4.0], [4.0])
    assert all(component['hits'] == 0 for component in failure['components'])


def test_what_was_only_estimated_is_not_called_certified():
    settings = CertifySettings(0.75, 0.01, 'kfwer', k=5)
    plan = SimpleNamespace(test_settings=settings)
    run = SimpleNamespace(plan=plan, estimated=False)
    expected = ' but for fewer than k = 5 of them, with probability 0.99 per image and set'
    assert attacking._promised(run, 'image') == expected
    run.estimated = True
    assert 'nothing is proven' in attacking._promised(run, 'image')
    failure = {
        'input': 'a', 'index': 0, 'attack': 'x', 'attack_set': 'parameters', 'kind': 'estimate',
        'components': [{'at': [0, 0], 'class': 1, 'hits': 3, 'p_value': 0.0}], 'draws': 100,
        'level': 1e-6, 'seed': 1, 'attacked_input': 'a.npz',
    }  # fmt: skip
    assert attacking._alarm(failure, Path()).startswith('WRONG ESTIMATE: a (number 0')
    assert attacking._alarm({**failure, 'kind': 'certificate'}, Path()).startswith('BROKEN CERT')


def test_parameters_of_a_direct_certificate_are_attacked(attack):
    law = dict(type='Exponential', mean=4.0)
    _, (folder,) = attack(
        *PARAMETERS, images=1, n=60, n0=4, tau=0.6, alpha=0.01, procedure='holm',
        selection='holdout', perturbation=dict(type='mmcert.GaussianBlur', law=law),
    )  # fmt: skip
    rows = read_attacked(folder / '00000-parameters.npz').facts['attacks']
    tried = [row['parameter'][0] for row in rows if row['model'] == 'smoothed']
    assert tried[:3] == pytest.approx([0, 2 * np.log(1.25), 4 * np.log(1.25)])
    assert all(row.get('broken', 0) == 0 for row in rows)
    assert sum(row.get('certified', 0) for row in rows) > 0


def test_the_votes_of_a_test_run_are_used(attack, make_config, tmp_path):
    cfg = make_config(images=2, model=MODEL, smoothing={'n': 60})
    cfg.pop('data_preprocessor')
    cfg.dump(tmp_path / 'tested.py')
    run_tool(
        'tools/test.py', tmp_path / 'tested.py', cfg.load_from, '--work-dir', tmp_path / 'work'
    )
    votes = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob('work/certified/votes-*/*.npz')
    }
    assert len(votes) == 2
    attack('--radius', 0.05, *FAST)
    again = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob('work/certified/votes-*/*.npz')
    }
    assert again == votes
