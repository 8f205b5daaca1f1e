"""Surrogates from a config: thresholds of each image, statements, and the votes they share."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri

from mmcert.certifier import certifier, entries
from mmcert.certify import CertifySettings, InfeasiblePlanError
from mmcert.engine import SmoothingConfig
from mmcert.perturbations import SurrogateTransform
from mmcert.sampling import SegmentorOutputError
from mmcert.surrogates import Surrogate, load_surrogate, save_surrogate
from mmcert.votes import load_votes
from tests.openmmlab import run_test, run_tool

SCALES = {'sigma1': 0.5, 'sigma2': 0.25}
ATTACK = dict(values=[-0.1, 0.2])


@pytest.fixture
def smoothing(tmp_path):
    """The ``smoothing`` of a config with an attack set, and the surrogate's file."""
    made = iter(range(100))

    def make(attack=ATTACK, gain=0.03, transformation='brightness', low=-0.3, high=0.3, **options):
        torch.manual_seed(0)
        surrogate = Surrogate(transformation, low, high, latent_channels=4, stride=8, width=8)
        surrogate.image_encoder.layers[0].weight.data *= gain
        file = tmp_path / f'surrogate{next(made)}.pth'
        save_surrogate(file, surrogate)
        perturbation = dict(type='mmcert.SurrogateTransform', surrogate=str(file), **SCALES)
        if attack is not None:
            perturbation['attack'] = attack
        return dict(sigma=None, tau=None, perturbation=perturbation) | options

    return make


def statements(tmp_path, words=''):
    """The certificates of the folder whose attack set has these words."""
    found = {}
    for path in sorted((tmp_path / 'work/certified').glob('certificates-*/*.json')):
        statement = entries(json.loads(path.read_text(), parse_constant=pytest.fail))
        if words in statement['attack_set']:
            assert path.stem not in found
            found[path.stem] = statement
    return found


def votes_of(tmp_path):
    return {path.stem: path for path in (tmp_path / 'work/certified').glob('votes-*/*.npz')}


def log(tmp_path):
    return '\n'.join(path.read_text() for path in sorted((tmp_path / 'work').glob('2*/2*.log')))


def no_more_draws(monkeypatch):
    monkeypatch.setattr(certifier, 'collect_votes', None)


def test_certificates_state_the_attack_and_what_it_takes_on_each_image(
    make_config, tmp_path, smoothing
):
    cfg = make_config(smoothing=smoothing(draw_every=1))
    metrics = run_test(cfg)
    surrogate = load_surrogate(cfg.smoothing.perturbation.surrogate)
    found = statements(tmp_path)
    assert len(found) == 2
    for name, statement in found.items():
        of_input = statement['attack_on_this_input']
        assert statement['kind'] == 'certificate'
        assert statement['attack_set'] == 'brightness with shift (image) in {-0.1, 0.2}'
        assert statement['attack'] == {'mode': 'finite', 'values': [-0.1, 0.2]}
        assert statement['operator'] == 'x + shift on every channel, not clipped'
        assert statement['transformation'] == {'type': 'brightness'}
        assert not statement['moves_labels'] and statement['space'] == 'original'
        assert 'as it reaches the smoothed model' in statement['stage']
        assert of_input['supremum_by'] == 'finite' and of_input['worst_parameter'] == [0.2]
        assert statement['tau'] == of_input['tau'] == ndtr(of_input['displacement'])
        assert statement['radius'] == pytest.approx(of_input['displacement'])
        assert statement['parameters']['sigma1'] == 0.5
        assert statement['parameters']['surrogate']['digest'] == surrogate.digest()
        assert of_input['paper']['kind'] == 'estimate' and of_input['paper']['tau'] > 0.5
        assert statement['arithmetic'].startswith('draws are rounded to a fixed grid')
        assert str(tmp_path) not in json.dumps(statement)
        # The votes give that certificate at that threshold, and at no other.
        record = load_votes(votes_of(tmp_path)[name])
        settings = CertifySettings(statement['tau'], 0.01, 'holm', 'holdout')
        assert record.certify(settings).certified.sum() == statement['certified'] > 0
    taus = {statement['tau'] for statement in found.values()}
    assert all(0.5 < tau < 0.75 for tau in taus)
    assert metrics['certified/abstain'] < 1
    assert len(list((tmp_path / 'work/certified').glob('vis-*/*.png'))) == 2
    printed = log(tmp_path)
    assert 'threshold tau that the attack set takes' in printed
    assert 'ESTIMATE' not in printed
    assert 'no brightness with shift (image) in {-0.1, 0.2} changes the class' in printed


def test_shards_are_merged_with_the_threshold_of_each_image(make_config, tmp_path, smoothing):
    options = smoothing()
    for shard, folder in ((None, 'whole'), ('1/2', 'shared'), ('2/2', 'shared')):
        run_test(make_config(smoothing=options | dict(shard=shard, out_dir=str(tmp_path / folder))))
    run_tool('tools/merge.py', tmp_path / 'shared')
    for name in ('summary.json', 'images.jsonl'):
        assert (tmp_path / 'shared' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


def test_the_threshold_of_the_run_is_that_of_the_image(make_config, tmp_path, smoothing):
    # By hand, from the file that the data set wrote.
    cfg = make_config(images=1, smoothing=smoothing())
    seen = []
    input_threshold = SurrogateTransform.input_threshold

    def look(self, inputs):
        seen.append((self, inputs.clone(), input_threshold(self, inputs)))
        return seen[-1][2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SurrogateTransform, 'input_threshold', look)
        run_test(cfg)
    ((perturbation, inputs, asked),) = seen
    assert inputs.shape == (3, 32, 48) and inputs.min() >= 0 and 0.3 < inputs.max() <= 1
    assert perturbation._displacement.latent(inputs).dtype == torch.float64
    (statement,) = statements(tmp_path).values()
    assert statement['tau'] == asked.tau


def test_a_sampled_supremum_makes_estimates_and_the_log_says_so(make_config, tmp_path, smoothing):
    attack = dict(range=(-0.1, 0.2), mode='sampled', points=5)
    rates = run_test(make_config(smoothing=smoothing(attack)))
    assert 'estimated/certAcc' in rates
    assert not any(name.startswith('certified/') for name in rates)
    for statement in statements(tmp_path).values():
        assert statement['kind'] == 'estimate'
        assert statement['attack_on_this_input']['supremum_by'] == 'sampled'
        assert statement['description'].startswith('an estimate')
        assert statement['promise'].startswith('none') and 'confidence' not in statement
    printed = log(tmp_path)
    assert 'estimated results of 2 images, without proof: an estimate' in printed
    assert 'only sampled: these results are an ESTIMATE, no certificate' in printed
    assert 'so far estimated accuracy' in printed
    claims = (
        'to be certified', 'so far certified', 'certified results of', 'inputs together',
        'certified/certAcc',
    )  # fmt: skip
    for claim in claims:
        assert claim not in printed
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    assert summary['certificate']['kind'] == 'estimate'
    assert 'all_images' not in summary


def test_another_attack_set_finds_the_same_votes(make_config, tmp_path, smoothing, monkeypatch):
    large = run_test(make_config(smoothing=smoothing()))
    before = {name: path.read_bytes() for name, path in votes_of(tmp_path).items()}
    no_more_draws(monkeypatch)
    small = run_test(make_config(smoothing=smoothing(dict(values=[0.01]))))
    assert {name: path.read_bytes() for name, path in votes_of(tmp_path).items()} == before
    assert small['certified/abstain'] <= large['certified/abstain']
    # Neither overwrote the other's certificates.
    first, second = (statements(tmp_path, words) for words in ('{-0.1, 0.2}', '{0.01}'))
    assert first.keys() == second.keys() and len(first) == 2
    for name in first:
        assert second[name]['tau'] < first[name]['tau']
    # Nor has the surrogate without an attack set votes of its own.
    run_test(make_config(smoothing=smoothing(None, tau=0.7)))
    assert len(votes_of(tmp_path)) == 2


@pytest.mark.parametrize('change', ['weights', 'sigma1', 'sigma2'])
def test_another_surrogate_finds_other_votes(make_config, tmp_path, smoothing, change):
    run_test(make_config(images=1, smoothing=smoothing()))
    other = smoothing(gain=0.031 if change == 'weights' else 0.03)
    if change != 'weights':
        other['perturbation'][change] = 0.3
    run_test(make_config(images=1, smoothing=other))
    assert len(list((tmp_path / 'work/certified').glob('votes-*'))) == 2


def test_an_image_that_moves_too_far_is_abstained_from(make_config, tmp_path, smoothing):
    metrics = run_test(make_config(smoothing=smoothing(gain=300.0)))
    assert metrics['certified/abstain'] == 1 and metrics['certified/certAcc'] == 0
    found = statements(tmp_path)
    assert len(found) == 2
    for statement in found.values():
        assert statement['certified'] == 0
        assert statement['attack_on_this_input']['displacement'] > 10
        assert statement['attack_on_this_input']['tau'] < 1
    printed = log(tmp_path)
    assert printed.count('this image will be abstained from everywhere') == 2
    # Its votes answer for smaller attacks.
    assert len(votes_of(tmp_path)) == 2
    less = run_test(make_config(smoothing=smoothing(dict(values=[1e-5]), gain=300.0)))
    assert less['certified/abstain'] < 1


def test_images_that_move_too_far_stand_beside_others(
    make_config, tmp_path, smoothing, monkeypatch
):
    input_threshold = SurrogateTransform.input_threshold
    factors = iter([1e4, 1.0, 1.0])

    def exaggerated(self, inputs):
        factor = next(factors)
        self._displacement.encoder.layers[0].weight.data *= factor
        found = input_threshold(self, inputs)
        self._displacement.encoder.layers[0].weight.data /= factor
        return found

    monkeypatch.setattr(SurrogateTransform, 'input_threshold', exaggerated)
    metrics = run_test(make_config(images=3, smoothing=smoothing()))
    certified = [statement['certified'] for statement in statements(tmp_path).values()]
    assert certified.count(0) == 1 and 0 < metrics['certified/abstain'] < 1


def test_too_few_draws_for_any_attack_are_refused_before_sampling(make_config, tmp_path, smoothing):
    with pytest.raises(InfeasiblePlanError, match='n=5 draws cannot certify anything at tau=0.5'):
        run_test(make_config(smoothing=smoothing(n=5, alpha=0.002)))
    assert not votes_of(tmp_path)


def test_a_threshold_of_the_user_is_a_lower_bound(make_config, tmp_path, smoothing):
    run_test(make_config(smoothing=smoothing(tau=0.73)))
    for statement in statements(tmp_path).values():
        asked = statement['attack_on_this_input']
        assert statement['tau'] == 0.73 > asked['tau']
        assert statement['radius'] == pytest.approx(ndtri(0.73))
    assert (
        '0.73'
        not in log(tmp_path).split('threshold tau that the attack set takes')[1].split(';')[0]
    )
    run_test(make_config(smoothing=smoothing(tau=0.5, out_dir=str(tmp_path / 'work/certified'))))
    paths = (tmp_path / 'work/certified').glob('certificates-*/*.json')
    both = [entries(json.loads(path.read_text())) for path in paths]
    low = [s for s in both if s['tau'] != 0.73]
    assert len(low) == 2
    assert all(s['tau'] == s['attack_on_this_input']['tau'] > 0.5 for s in low)


def test_without_an_attack_set_the_latent_is_certified(make_config, tmp_path, smoothing):
    run_test(make_config(smoothing=smoothing(None, n=60)))
    for statement in statements(tmp_path).values():
        assert statement['tau'] == 0.75 and 'attack_on_this_input' not in statement
        assert statement['attack_set'] == 'whatever moves the latent by less than the radius'
    assert 'threshold tau that the attack set takes' not in log(tmp_path)


def test_groups_of_a_hierarchy_have_the_radius_of_the_image(make_config, tmp_path, smoothing):
    levels = [{'flat': ['road', 'sidewalk']}]
    run_test(make_config(smoothing=smoothing(hierarchy=levels)))
    for statement in statements(tmp_path).values():
        flat = statement['hierarchy']['levels'][0]['flat']
        assert flat['radius'] == pytest.approx(statement['radius']) and flat['radius'] > 0


def test_labels_that_move_are_counted_where_the_content_was(make_config, tmp_path, smoothing):
    turned = dict(attack=dict(values=[-1, 1]), transformation='rotation', low=-10, high=10)
    levels = [{'flat': ['road', 'sidewalk']}]
    run_test(make_config(images=1, smoothing=smoothing(**turned, hierarchy=levels)))
    (statement,) = statements(tmp_path).values()
    assert statement['moves_labels']
    assert statement['description'].count('the pixel nearest to where its content has moved') == 1
    assert statement['selection'] == 'holdout'
    assert statement['attack_on_this_input']['displacement'] > 0.1 / 0.5
    (votes,) = votes_of(tmp_path).values()
    hits = load_votes(votes).votes.hits
    assert load_votes(votes).votes.selection_hits is None
    # Corners leave the frame in some draws.
    assert hits[0, 0] < hits.max()
    with pytest.raises(SegmentorOutputError, match='must have the size of the image'):
        run_test(make_config(images=1, smoothing=smoothing(**turned, resolution='logits')))


@pytest.mark.parametrize('batch_size', [1, 7])
def test_batches_do_not_change_the_answers(make_config, tmp_path, smoothing, batch_size):
    first = run_test(make_config(smoothing=smoothing(batch_size=64)))
    other = smoothing(batch_size=batch_size, out_dir=str(tmp_path / 'other'))
    for key, value in run_test(make_config(smoothing=other)).items():
        if key.startswith('certified/'):
            assert value == pytest.approx(first[key], abs=2e-3, nan_ok=True), key


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(n='auto', budget=100), "n='auto' needs one threshold for all images"),
        (dict(tau=1.0), 'tau must lie'),
    ],
)
def test_bad_options_are_named(smoothing, options, message):
    with pytest.raises(ValueError, match=message):
        SmoothingConfig.from_cfg(smoothing(**options))


@pytest.mark.parametrize(
    ('attack', 'message'),
    [
        (dict(values=[0.5]), r'made for parameters from \[-0.3\] to \[0.3\]'),
        (dict(values=[0.1], transformation='contrast'), 'the attack is contrast'),
        (dict(range=(0, 0.1)), "needs mode='lipschitz'"),
    ],
)
def test_bad_attack_sets_are_refused_before_anything_is_loaded(
    make_config, smoothing, attack, message
):
    cfg = make_config(smoothing=smoothing(attack))
    cfg.load_from = '/nowhere/missing.pth'
    with pytest.raises(ValueError, match=message):
        run_test(cfg)


def test_looks_are_for_the_latent_alone(smoothing):
    config = SmoothingConfig.from_cfg(smoothing(None, n='auto', budget=200))
    assert config.plan().stopping is not None and not config.plan().perturbation.per_input_threshold


def test_offline_answers_need_no_surrogate(make_config, tmp_path, smoothing):
    cfg = make_config(smoothing=smoothing())
    run_test(cfg)
    Path(cfg.smoothing.perturbation.surrogate).unlink()
    (folder,) = (tmp_path / 'work/certified').glob('votes-*')
    printed = run_tool('tools/certify.py', folder, '--tau', 0.6, '--alpha', 0.01)
    assert 'SurrogateTransform(brightness, sigma1=0.5, sigma2=0.25)' in printed
    assert "tau = 0.6: no change of the image that moves the surrogate's latent by" in printed
    results = folder.with_name(folder.name.replace('votes', 'offline'))
    answer = json.loads((results / 'offline.json').read_text())
    assert answer['rows'][0]['radius'] == pytest.approx(ndtri(0.6))
    certified = [
        load_votes(path).certify(CertifySettings(0.6, 0.01, 'holm', 'holdout')).certified
        for path in votes_of(tmp_path).values()
    ]
    assert answer['rows'][0]['abstain'] == pytest.approx(1 - np.stack(certified).mean())


def test_a_requirement_is_asked_of_the_clean_input(make_config, smoothing, monkeypatch):
    # In [0, 1] units: of a 0-255 image the displacement would be refused.
    asked = []
    certify = certifier.Certifier.certify

    def look(self, segment, inputs, **options):
        found = certify(self, segment, inputs, **options)
        asked.append((float(inputs.max()), found.input_threshold.tau))
        return found

    monkeypatch.setattr(certifier.Certifier, 'certify', look)
    run_test(make_config(smoothing=smoothing()))
    assert len(asked) == 2 and all(top <= 1 and tau < 0.75 for top, tau in asked)


@pytest.mark.slow
def test_two_processes_that_share_draws_answer_as_one(make_config, tmp_path, smoothing):
    cfg = make_config(smoothing=smoothing())
    expected = run_test(cfg)
    cfg.dump(tmp_path / 'config.py')
    run_tool(
        '-m', 'torch.distributed.run', '--nproc-per-node=2', '--master-port=29541',
        'tools/test.py', tmp_path / 'config.py', cfg.load_from, '--launcher=pytorch', '--work-dir',
        tmp_path / 'work2', '--cfg-options', 'smoothing.distribute=draws',
    )  # fmt: skip
    summary = json.loads((tmp_path / 'work2/certified/summary.json').read_text())
    for name, value in summary['rates'].items():
        assert value == pytest.approx(expected[f'certified/{name}'], nan_ok=True), name
    one = {name: (s['tau'], s['certified']) for name, s in statements(tmp_path).items()}
    paths = (tmp_path / 'work2/certified').glob('certificates-*/*.json')
    two = {path.stem: entries(json.loads(path.read_text())) for path in paths}
    assert one == {name: (s['tau'], s['certified']) for name, s in two.items()}


@pytest.mark.parametrize(('n', 'able', 'code'), [(60, 2, 0), (3, 0, 2)])
def test_the_plan_tool_looks_up_the_thresholds_of_the_data(
    make_config, smoothing, tmp_path, n, able, code
):
    cfg = make_config(smoothing=smoothing(n=n))
    cfg.dump(tmp_path / 'config.py')
    printed = run_tool('tools/plan.py', tmp_path / 'config.py', expect=code)
    assert f'The plan can certify on {able} of 2 images looked at.' in printed
    run_test(make_config(smoothing=smoothing(n=60)))
    taus = sorted(statement['tau'] for statement in statements(tmp_path).values())
    assert f'{taus[1]:.4f} for the median of 2 images' in printed
    assert f'({taus[0]:.4f} to {taus[1]:.4f})' in printed
    unknown = run_tool('tools/plan.py', tmp_path / 'config.py', '--size', 32, 48, expect=code)
    assert 'which the data tells, without --size' in unknown
    assert ('At tau = 0.5: The plan' if able else 'error: n=3 draws') in unknown
