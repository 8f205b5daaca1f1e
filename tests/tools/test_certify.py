"""``tools/certify.py`` on votes that no model had to make, and the statement of a data set."""

import json
import sys
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest

from mmcert.certify import CertifySettings, Votes, certify
from mmcert.perturbations import GaussianNoise
from mmcert.runs.offline import Question, print_defaults
from mmcert.sampling.draws import DRAW_SCHEME
from mmcert.votes import VotesRecord, VotesStore, read_folder
from mmcert.votes.confidence import confidence_maps
from tests.openmmlab import run_tool

PROVENANCE = {'num_classes': 2, 'ignore_index': 255, 'certified_space': 'the original image'}


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path])
    return partial(run_tool, 'tools/certify.py')


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


def answer_of(folder):
    """What the tool wrote beside a folder of votes."""
    return json.loads((folder.parent / f'offline-{folder.name}/offline.json').read_text())


def rows_of(folder):
    return answer_of(folder)['rows']


def test_the_defaults_are_those_of_a_run(tool, tmp_path):
    write_votes(tmp_path)
    printed = tool(tmp_path, '--no-plot')
    (row,) = rows_of(tmp_path)
    assert (row['procedure'], row['selection']) == ('ordered_holm', 'auto')
    assert (row['counted'], row['tested_tau']) == ('same_draws', 0.75)
    assert 'auto: same_draws' in printed
    assert 'voids its promise' not in printed


def test_confidence_is_written_for_each_alpha_and_selection(tool, tmp_path):
    write_votes(tmp_path, digests='a')
    asked = '--alpha', 0.01, 0.001, '--selection', 'holdout', '--no-plot', '--confidence'
    printed = tool(tmp_path, *asked)
    assert 'note: these votes do not tell runner_up, runner_up_share' in printed
    out = tmp_path.parent / f'offline-{tmp_path.name}'
    (record,) = read_folder(tmp_path)
    bounds = []
    for alpha in (0.01, 0.001):
        folder = out / f'confidence-{alpha:g}-holdout'
        assert f'wrote {folder}' in printed and (folder / '0.png').is_file()
        radius = GaussianNoise(0.25).radius
        expected = confidence_maps(record, alpha=alpha, selection='holdout', radius=radius)
        with np.load(folder / '0.npz') as stored:
            assert stored.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_array_equal(stored[name], values)
        bounds.append(expected['lower_bound'])
    assert (bounds[0] >= bounds[1]).all() and (bounds[0] > bounds[1]).any()


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
    curves = answer_of(tmp_path)['joint_curve']
    assert {row['selection'] for row in curves} == {'same_draws', 'auto'}


def test_a_curve_comes_with_the_warning_and_its_selection(tool, tmp_path):
    write_votes(tmp_path)
    printed = tool(tmp_path, '--tau', 0.5, '--selection', 'auto')
    assert 'Choosing a row because of what it shows voids its promise' in printed
    assert 'The same holds for picking a point of a curve' in printed
    answer = answer_of(tmp_path)
    # Settled for all thresholds at once, whatever is best at 0.5.
    assert answer['rows'][0]['counted'] == 'holdout'
    assert {row['counted'] for row in answer['joint_curve']} == {'same_draws'}
    assert 'joint curve, alpha = 0.001: selection auto: same_draws' in printed
    assert 'voids its promise' not in tool(tmp_path, '--tau', 0.5, '--no-plot')


def test_copies_are_counted_once(tool, tmp_path):
    write_votes(tmp_path, 'aaab')
    printed = tool(tmp_path, '--no-plot')
    (everywhere,) = answer_of(tmp_path)['all_images']
    assert (everywhere['images'], everywhere['distinct']) == (4, 2)
    assert 'of which 2 differ' in printed


def test_votes_that_do_not_tell_their_image_are_taken_for_different_ones(tool, tmp_path):
    write_votes(tmp_path, 'aa--')
    printed = tool(tmp_path, '--no-plot')
    assert 'note: 2 of 4 votes files do not tell their image' in printed
    (everywhere,) = answer_of(tmp_path)['all_images']
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


OWN_PROCEDURE = """
from mmcert.certify.procedures import Bonferroni, register

@register
class HalfBonferroni(Bonferroni):
    name = 'half_bonferroni'
    source = 'valid, and of no use'

    def critical_value(self, alpha, num_components, k=1):
        return super().critical_value(alpha / 2, num_components, k)
"""


def test_a_procedure_of_ones_own_is_known_everywhere(tool, tmp_path, monkeypatch):
    from mmcert.certify.audit import Audit, methods
    from mmcert.certify.procedures import PROCEDURES
    from mmcert.engine.smoothing_config import SmoothingConfig
    from mmcert.runs.planner import PlannedRun, report

    monkeypatch.chdir(tmp_path)
    write_votes(tmp_path / 'votes')
    refused = tool('votes', '--procedure', 'half_bonferroni', expect=2)
    assert "unknown procedure 'half_bonferroni'" in refused
    (tmp_path / 'own_procedure_module.py').write_text(OWN_PROCEDURE)
    names = ('half_bonferroni', 'bonferroni')
    try:
        tool('votes', '--import', 'own_procedure_module', '--alpha', 0.2, 0.1, '--no-plot',
             '--procedure', *names, '--selection', 'holdout')  # fmt: skip
        rows = {(row['procedure'], row['alpha']): row for row in rows_of(tmp_path / 'votes')}
        mine, theirs = rows['half_bonferroni', 0.2], rows['bonferroni', 0.1]
        assert mine['certified_share'] == theirs['certified_share'] > 0
        votes = Votes(np.zeros(9, dtype=int), np.arange(21, 30), 30, 10)
        found, expected = (
            certify(votes, tau=0.75, alpha=alpha, procedure=name)
            for name, alpha in zip(names, (0.02, 0.01), strict=True)
        )
        np.testing.assert_array_equal(found.certified, expected.certified)
        assert found.to_dict()['promise'] == 'no certificate of this input is wrong'
        plan = SmoothingConfig.from_cfg({'sigma': 0.25, 'procedure': 'half_bonferroni'}).plan()
        printed = report(PlannedRun(plan, 1000), [])
        assert printed.count('half_bonferroni') == 4 and 'The plan can certify.' in printed
        audited = tuple(method for method in methods() if 'half_bonferroni' in method.name)
        assert len(audited) == 10
        assert not any(finding.violates_level for finding in Audit(50, methods=audited).run())
        assert PROCEDURES['half_bonferroni'].source == 'valid, and of no use'
    finally:
        PROCEDURES.pop('half_bonferroni', None)
        sys.modules.pop('own_procedure_module', None)


def test_what_is_no_folder_of_votes_is_told_what_it_is(tool, tmp_path):
    assert 'there is no folder' in tool(tmp_path / 'nowhere', expect=2)
    (tmp_path / 'certified/votes-1').mkdir(parents=True)
    assert 'no votes files (*.npz) in' in tool(tmp_path / 'certified', expect=2)
    np.savez_compressed(tmp_path / 'certified/picture.npz', radius=np.zeros(3))
    refused = tool(tmp_path / 'certified', expect=2)
    assert 'picture.npz is not a votes file' in refused and 'Delete' not in refused


def test_k_without_its_procedure_is_refused(tool, tmp_path):
    write_votes(tmp_path / 'votes')
    assert 'a number, or a share in (0, 1)' in tool(tmp_path / 'votes', '--k', 'x', expect=2)
    refused = tool(tmp_path / 'votes', '--k', 5, expect=2)
    assert 'k belongs to the procedure kfwer: leave it out with ordered_holm' in refused


def test_the_order_of_the_run_stays_with_its_selection(monkeypatch, tmp_path):
    ran = asdict(CertifySettings(0.6, 0.01, selection='holdout', order='selection'))
    monkeypatch.setattr('mmcert.runs.offline.settings_of_run', lambda folder: ran)
    asked = Question.about(tmp_path, {'tau': [0.7]})
    assert (asked.order, asked.taus, asked.alphas) == ('selection', [0.7], [0.01])
    other = Question.about(tmp_path, {'selection': ['same_draws']})
    assert (other.order, other.taus, other.selections) == ('auto', [0.6], ['same_draws'])


def test_what_was_not_asked_for_is_told_with_where_it_is_from(monkeypatch, capsys, tmp_path):
    # Inputs had thresholds of their own.
    ran = {**asdict(CertifySettings(0.6, 0.01, 'kfwer', k=5)), 'tau': None}
    monkeypatch.setattr('mmcert.runs.offline.settings_of_run', lambda folder: ran)
    print_defaults(Question.about(tmp_path, {'selection': ['holdout']}), [0.75])
    assert capsys.readouterr().out == (
        'not asked for, so as in the run: alpha 0.01, procedure kfwer, k 5\n'
        'not asked for, so by default: tau 0.75\n'
    )


def test_a_perturbation_that_passes_for_another_one_is_refused():
    from mmcert.engine.smoothing_config import SmoothingConfig
    from mmcert.perturbations import CLASSES, GaussianNoise, register

    @register
    class Silent(GaussianNoise):
        """No noise at all, under the address of Gaussian noise."""

        def spec(self):
            return {**super().spec(), 'type': 'GaussianNoise'}

    try:
        smoothing = dict(perturbation=dict(type='mmcert.Silent', sigma=0.25))
        with pytest.raises(ValueError, match=r"Silent.spec\(\) says that its type is 'Gauss"):
            SmoothingConfig.from_cfg(smoothing).plan()
        Silent.spec = lambda self: {'type': 'Silent', 'sigma': self.sigma}
        plan = SmoothingConfig.from_cfg(smoothing).plan()
        assert repr(plan.perturbation) == 'Silent(sigma=0.25)'
        assert plan.perturbation.guarantee(0.75).perturbation == 'Silent'
    finally:
        del CLASSES['Silent']
