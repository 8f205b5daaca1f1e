"""``tools/certify.py`` on votes that no model had to make, and the statement of a data set."""

import json
import sys

import numpy as np
import pytest

from mmcert.certify import Votes
from mmcert.sampling.draws import DRAW_SCHEME
from mmcert.votes import VotesRecord, VotesStore
from tests.openmmlab.conftest import ROOT

PROVENANCE = {'num_classes': 2, 'ignore_index': 255, 'certified_space': 'the original image'}


@pytest.fixture
def tool(monkeypatch, capsys):
    import importlib.util

    spec = importlib.util.spec_from_file_location('certify_tool', ROOT / 'tools/certify.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    spec.loader.exec_module(module)

    def call(*arguments, expect=0):
        monkeypatch.setattr(sys, 'argv', ['certify', *map(str, arguments)])
        assert module.main() == expect
        printed = capsys.readouterr()
        return printed.out + printed.err

    return call


def write_votes(folder, digests=('a', 'b', 'c'), perturbation=None):
    """Votes of inputs that are 2 x 1000, sure of most components; equal digests, equal votes."""
    spec = perturbation or {'type': 'GaussianNoise', 'sigma': 0.25}
    store = VotesStore(folder, {'perturbation': spec, 'scheme': DRAW_SCHEME}, PROVENANCE)
    for index, digest in enumerate(digests):
        rng = np.random.default_rng(list(digest.encode()))
        shape = (2, 1000)
        p = np.where(rng.random(shape) < 0.8, rng.beta(200, 0.5, shape), 0.6)
        hits, first = rng.binomial(100, p), rng.binomial(10, p)
        votes = Votes(np.zeros(shape, dtype=int), hits, 100, 10, first)
        label = np.zeros(shape, dtype=int)
        meta = {} if digest == '-' else {'digest': digest}
        store.put(f'{index}', VotesRecord(votes, meta, label=label, margin=first * 20))


def rows_of(folder):
    return json.loads((folder / 'offline.json').read_text())['rows']


def test_the_defaults_are_those_of_a_run(tool, tmp_path):
    write_votes(tmp_path)
    printed = tool(tmp_path, '--no-plot')
    (row,) = rows_of(tmp_path)
    assert (row['procedure'], row['selection']) == ('ordered_holm', 'auto')
    assert (row['counted'], row['tested_tau']) == ('same_draws', 0.75)
    assert 'auto: same_draws' in printed
    assert 'voids its promise' not in printed


def test_several_rows_come_with_a_warning_and_the_tested_tau(tool, tmp_path):
    write_votes(tmp_path)
    printed = tool(tmp_path, '--tau', 0.5, 0.75, '--selection', 'same_draws', 'auto')
    assert 'Choosing a row because of what it shows voids its promise' in printed
    assert 'sampled with a second `seed`' in printed
    assert 'At tau = 0.5 same_draws is tested at 0.53' in printed
    by_terms = {(row['tau'], row['selection']): row for row in rows_of(tmp_path)}
    assert by_terms[0.5, 'auto']['counted'] == 'holdout'
    assert by_terms[0.5, 'same_draws']['tested_tau'] > 0.5
    assert by_terms[0.75, 'same_draws']['tested_tau'] == 0.75
    curves = json.loads((tmp_path / 'offline.json').read_text())['joint_curve']
    assert {row['selection'] for row in curves} == {'same_draws', 'auto'}


def test_a_curve_comes_with_the_warning_and_its_selection(tool, tmp_path):
    write_votes(tmp_path)
    printed = tool(tmp_path, '--tau', 0.5, '--selection', 'auto')
    assert 'Choosing a row because of what it shows voids its promise' in printed
    assert 'So does choosing a point of the curve of a procedure' in printed
    answer = json.loads((tmp_path / 'offline.json').read_text())
    # Settled for all thresholds at once, whatever is best at 0.5.
    assert answer['rows'][0]['counted'] == 'holdout'
    assert {row['counted'] for row in answer['joint_curve']} == {'same_draws'}
    assert 'joint curve, alpha = 0.001: selection auto: same_draws' in printed
    assert 'voids its promise' not in tool(tmp_path, '--tau', 0.5, '--no-plot')


def test_copies_are_counted_once(tool, tmp_path):
    write_votes(tmp_path, 'aaab')
    printed = tool(tmp_path, '--no-plot')
    (everywhere,) = json.loads((tmp_path / 'offline.json').read_text())['all_images']
    assert (everywhere['images'], everywhere['distinct']) == (4, 2)
    assert 'of which 2 differ' in printed


def test_votes_that_do_not_tell_their_image_are_taken_for_different_ones(tool, tmp_path):
    write_votes(tmp_path, 'aa--')
    printed = tool(tmp_path, '--no-plot')
    assert 'note: 2 of 4 votes files do not tell their image' in printed
    (everywhere,) = json.loads((tmp_path / 'offline.json').read_text())['all_images']
    assert (everywhere['images'], everywhere['distinct']) == (4, 3)


def test_a_perturbation_of_ones_own_is_imported(tool, tmp_path, monkeypatch):
    from mmcert.perturbations import CLASSES

    monkeypatch.chdir(tmp_path)
    write_votes(tmp_path / 'votes', perturbation={'type': 'OwnNoise', 'sigma': 0.25})
    refused = tool('votes', expect=2)
    assert "unknown perturbation 'OwnNoise'" in refused and '--import' in refused
    (tmp_path / 'own_noise_module.py').write_text(
        'from mmcert.perturbations import CLASSES, GaussianNoise\n'
        'class OwnNoise(GaussianNoise):\n'
        '    pass\n'
        "CLASSES['OwnNoise'] = OwnNoise\n"
    )
    try:
        assert '3 images' in tool('votes', '--no-plot', '--import', 'own_noise_module')
    finally:
        CLASSES.pop('OwnNoise', None)
        sys.modules.pop('own_noise_module', None)
    assert "No module named 'nowhere'" in tool('votes', '--import', 'nowhere', expect=2)


def test_what_is_no_folder_of_votes_is_told_what_it_is(tool, tmp_path):
    assert 'there is no folder' in tool(tmp_path / 'nowhere', expect=2)
    (tmp_path / 'certified/votes-1').mkdir(parents=True)
    assert 'did you mean' in tool(tmp_path / 'certified', expect=2)
    np.savez_compressed(tmp_path / 'certified/picture.npz', radius=np.zeros(3))
    refused = tool(tmp_path / 'certified', expect=2)
    assert 'picture.npz is no votes file' in refused and 'Delete' not in refused


def test_k_without_its_procedure_is_refused(tool, tmp_path):
    write_votes(tmp_path / 'votes')
    assert '--k belongs to --procedure kfwer' in tool(tmp_path / 'votes', '--k', 5, expect=2)


def test_a_perturbation_that_passes_for_another_one_is_refused():
    from mmcert.engine.smoothing_config import SmoothingConfig
    from mmcert.perturbations import CLASSES, GaussianNoise, register

    @register
    class Silent(GaussianNoise):
        """No noise at all, under the address of Gaussian noise."""

    try:
        smoothing = dict(perturbation=dict(type='mmcert.Silent', sigma=0.25))
        with pytest.raises(ValueError, match=r"Silent.spec\(\) says that its type is 'Gauss"):
            SmoothingConfig.from_cfg(smoothing).plan()
        Silent.spec = lambda self: {'type': 'Silent', 'sigma': self.sigma}
        plan = SmoothingConfig.from_cfg(smoothing).plan()
        assert repr(plan.perturbation) == 'Silent(sigma=0.25)'
        assert plan.perturbation.guarantee(0.75)['perturbation'] == 'Silent'
    finally:
        del CLASSES['Silent']
